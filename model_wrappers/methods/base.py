"""The kinds of method. A method says *which* visual tokens; the framework counts, cuts, positions and caches.

A method is a frozen dataclass whose fields are its hyper-parameters: equal fields, equal method, one cell of a table.
This module and the methods load torch only when they are used, so that names can be checked without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model_wrappers.pictures import Picture
    from model_wrappers.prompt import VisualPrompt


@dataclass(frozen=True)
class Method:
    """Any method. Use one of the kinds below."""

    name: ClassVar[str] = ""
    """The name in tables and specs."""
    media: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    """What it is defined for: a prompt whose `media` is none of these is refused."""
    needs_response: ClassVar[bool] = False
    """Whether scoring looks at the model's own greedy response (`prompt.cache['response_ids']`)."""
    needs_vision: ClassVar[bool] = False
    """Whether it looks at what the vision encoder knew of the visual tokens (`prompt.vision`)."""
    positions: Literal["own", "renumber"] = field(default="own", kw_only=True)
    """"own": a kept token keeps its position ids, and decoding goes on after the uncut length. "renumber": gaps are
    closed (`model_wrappers.positions.renumbered`), and decoding goes on after the cut length."""

    def check(self, model: Any) -> None:
        """Raises UserError where the method cannot run on this model; called before anything is hooked."""

    def undefined(self, family: str, shows: str) -> str | None:
        """Why there is nothing to run, in a few words; None where there is.

        Args:
            family: a key of `model_wrappers.families.FAMILIES`.
            shows: "image", "video", or "text" where the prompts show neither.
        """
        if shows in self.media:
            return None
        if shows == "text":
            return "a prompt without image or video has no visual tokens"
        return f"it is defined for {' and '.join(sorted(self.media))} prompts only"


@dataclass(frozen=True)
class Vanilla(Method):
    """Keeps everything; the model is not touched. Only with keep = 1."""

    name: ClassVar[str] = "vanilla"

    def __post_init__(self) -> None:
        if self.positions != "own":
            raise UserError(f"vanilla: positions={self.positions}, but where nothing is cut there is no gap: own")

    def undefined(self, family: str, shows: str) -> str | None:
        return None


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
class InputTransform(Method):
    """Gives the vision encoder a cheaper image or video; the language model gets every visual token of that.

    The framework takes the version whose visual tokens are nearest to the budget and not above it (the cheapest, where
    all are above), encodes it, and counts positions as the family does for an input of that size.
    """

    def __post_init__(self) -> None:
        if self.positions != "own":
            raise UserError(f"{self.name}: positions={self.positions}, but a cheaper input has no gaps to close: own")

    def versions(self, pictures: Sequence[Picture]) -> Iterable[Sequence[Picture]]:
        """Cheaper and cheaper versions, or the other way round, of all the images and videos of one prompt.

        At least one; each holds as many pictures, in the same order. Nothing is resampled for it.
        """
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

    def score(self, layer: nn.Module, hidden: Tensor, position_embeddings: Any, visual: Tensor) -> Tensor:
        """[n] float for the n visual rows still there; higher is kept.

        Args:
            layer: the decoder layer before the cut (it has not run yet, and must not be run here).
            hidden: [L, d], what enters that layer, one prompt without padding.
            position_embeddings: (cos, sin), each [L, head_dim].
            visual: [L] bool.
        """
        raise NotImplementedError
