"""The kinds of method. A method says *which* visual tokens; the framework counts, cuts, positions and caches.

A method is a frozen dataclass whose fields are its hyper-parameters: equal fields, equal method, one cell of a table.
This module and the methods load torch only when they are used, so that names can be checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.errors import UserError
from model_wrappers.rounding import budget

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class Method:
    """Any method. Use one of the kinds below."""

    name: ClassVar[str] = ""
    """The name in tables and specs."""
    media: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    """What it is defined for: a prompt whose `media` is none of these is refused."""
    needs_response: ClassVar[bool] = False
    """Whether scoring looks at the model's own greedy response (`prompt.cache['response_ids']`)."""
    positions: Literal["own", "renumber"] = field(default="own", kw_only=True)
    """"own": a kept token keeps its position ids, and decoding goes on after the uncut length. "renumber": gaps are
    closed (`model_wrappers.positions.renumbered`), and decoding goes on after the cut length."""

    def check(self, model: Any) -> None:
        """Raises UserError where the method cannot run on this model; called before anything is hooked."""

    def counts(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        """[n_layers] visual tokens that each decoder layer works on, of a prompt that has `n_visual`.

        Follows from the kind; a method that realises another number than the budget says so here. Raises UserError
        where the method cannot cut so many layers.
        """
        return [budget(keep, n_visual)] * n_layers

    def encoded(self, prompt: PromptSize, keep: float) -> PromptSize | None:
        """What the vision encoder is given of a prompt: all of it, but for a method that makes its input cheaper. None:
        the method does not say.
        """
        return prompt

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float | None:
        """Operations of the matrix products that choosing adds to the forward pass, as `model_wrappers.shape` counts.

        None: the method does not say.
        """
        return None

    def paper_flops(self, shape: Shape, n_visual: int) -> float | None:
        """Operations of choosing as arXiv 2506.01097 counts them: Tables 7 and 8 add those of its compressor (eq. 5
        and 6) and, for all other methods, none. None: that count cannot be made.
        """
        return 0.0


@dataclass(frozen=True)
class Vanilla(Method):
    """Keeps everything; the model is not touched. Only with keep = 1."""

    name: ClassVar[str] = "vanilla"

    def __post_init__(self) -> None:
        if self.positions != "own":
            raise UserError(f"vanilla: positions={self.positions}, but where nothing is cut there is no gap: own")

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        return 0.0


@dataclass(frozen=True)
class Scorer(Method):
    """Gives each visual token a score; the highest are kept, cut at the language model's input."""

    def score(self, model: Any, prompt: VisualPrompt) -> Tensor:
        """[N_v] float, finite: higher is kept."""
        raise NotImplementedError


@dataclass(frozen=True)
class Selector(Method):
    """Chooses k visual tokens together, cut at the language model's input."""

    def select(self, model: Any, prompt: VisualPrompt, k: int) -> Tensor:
        """[k] long, sorted indices into the prompt's visual tokens."""
        raise NotImplementedError


@dataclass(frozen=True)
class Merger(Method):
    """Puts fewer embeddings in the place of the visual tokens, at the language model's input."""

    def merge(self, model: Any, prompt: VisualPrompt, k: int) -> tuple[Tensor, Tensor]:
        """m embeddings [m, d] and [m] long: the visual tokens, sorted, in whose places and positions they stand.

        1 <= m <= N_v. How near m comes to k is the method's own: its docstring says so, and what is reported is m.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LayerPruner(Method):
    """Cuts between decoder layers, by a score from the hidden states that enter the layer before the cut.

    With `positions="renumber"` the gaps close at each cut, as PyramidDrop and SparseVLM have it: the layers from there
    on see the shorter numbering, at prefill and while decoding, those before it the one that they began with.
    """

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        """{index of the layer at whose input is cut: share of the prompt's visual tokens kept from there on}.

        Indices are 0-based and at least 1, shares do not grow with the index.
        """
        raise NotImplementedError

    def counts(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        plan = self.plan(n_layers, keep) if keep < 1 else {}
        if plan and not 1 <= min(plan) <= max(plan) < n_layers:
            raise UserError(f"{self.name} cuts at the input of layers {sorted(plan)}, of {n_layers} counted from 0")
        counts, held = [], n_visual
        for index in range(n_layers):
            held = min(held, budget(plan[index], n_visual)) if index in plan else held
            counts.append(held)
        return counts

    def score(self, layer: nn.Module, hidden: Tensor, position_embeddings: Any, visual: Tensor) -> Tensor:
        """[n] float for the n visual rows still there; higher is kept.

        Args:
            layer: the decoder layer before the cut (it has not run yet, and must not be run here).
            hidden: [L, d], what enters that layer, one prompt without padding.
            position_embeddings: (cos, sin), each [L, head_dim].
            visual: [L] bool.
        """
        raise NotImplementedError
