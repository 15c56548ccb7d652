"""The kinds of method. A method says *which* visual tokens; the framework counts, cuts, positions and caches.

A method is a frozen dataclass whose fields are its hyper-parameters: equal fields, equal method, one cell of a table.
This module and the methods load torch only when they are used, so that names can be checked without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from model_wrappers.errors import UserError
from model_wrappers.rounding import budget

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model_wrappers.pictures import Picture
    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape, Tower


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
    counted_as: ClassVar[str] = ""
    """What `scoring_flops` or `encoded` takes for granted, in a few words, where some pictures or texts cost more than
    others of the same size."""
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

    def counts(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        """[n_layers] visual tokens that each decoder layer works on, of a prompt that has `n_visual`.

        Follows from the kind; a method that realises another number than the budget says so here. Raises UserError
        where the method cannot cut so many layers.
        """
        return [budget(keep, n_visual)] * n_layers

    def held(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        """[n_layers] visual tokens that each layer's KV cache holds after the prefill: those of `counts`, but for a
        method that cuts the caches of layers that have run.
        """
        return self.counts(n_layers, keep, n_visual)

    def encoded(self, tower: Tower, prompt: PromptSize, keep: float) -> tuple[Tower, PromptSize] | None:
        """What the vision encoder is given of a prompt, and the encoder at that size: all of it, but for a method that
        makes its input cheaper. None: the method does not say.
        """
        return tower, prompt

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

    def undefined(self, family: str, shows: str) -> str | None:
        return None

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
class InputTransform(Method):
    """Gives the vision encoder a cheaper image or video; the language model gets every visual token of that.

    The framework takes the version whose visual tokens are nearest to the budget, encodes it, and counts positions as
    the family does for an input of that size.
    """

    def __post_init__(self) -> None:
        if self.positions != "own":
            raise UserError(f"{self.name}: positions={self.positions}, but a cheaper input has no gaps to close: own")

    def versions(self, pictures: Sequence[Picture]) -> Iterable[Sequence[Picture]]:
        """Cheaper and cheaper versions, or the other way round, of all the images and videos of one prompt.

        At least one; each holds as many pictures, in the same order. Nothing is resampled for it.
        """
        raise NotImplementedError

    def encoded(self, tower: Tower, prompt: PromptSize, keep: float) -> tuple[Tower, PromptSize] | None:
        return None

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        return 0.0


@dataclass(frozen=True)
class Merger(Method):
    """Puts fewer embeddings in the place of the visual tokens, at the language model's input.

    A Merger that is a LayerPruner too merges first, and cuts between layers what that has left; k is what its last cut
    is to leave.
    """

    def merge(self, model: Any, prompt: VisualPrompt, k: int) -> tuple[Tensor, Tensor]:
        """m embeddings [m, d] and [m] long: the visual tokens, sorted, in whose places and positions they stand.

        1 <= m <= N_v. How near m comes to k is the method's own: its docstring says so, and what is reported is m.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Passage:
    """One prompt between two decoder layers, without padding: what a LayerPruner may look at where it cuts.

    L rows are still there, n of them visual.
    """

    prompt: VisualPrompt
    """As it was before any cut."""
    tokens: Tensor
    """[n] long: which of the prompt's visual tokens they are; of merged ones those in whose places they stand."""
    before: nn.Module
    """The decoder layer that has just run. It must not be run again, nor the one behind the cut be run."""
    entered: Tensor
    """[L, d], what entered it."""
    behind: nn.Module
    """The decoder layer behind the cut."""
    hidden: Tensor
    """[L, d], what would enter it uncut."""
    position_embeddings: tuple[Tensor, ...]
    """(cos, sin), each [L, head_dim]: of the layer before the cut, and of the one behind it if nothing were cut."""
    visual: Tensor
    """[L] bool."""
    norm: nn.Module
    """The model's norm after its last layer."""

    def ranked(self, scores: Tensor) -> Tensor:
        """[n] long: the visual rows in falling order of `scores` [n], of equal ones the first.

        A visual token that ends the prompt comes before all others: its row predicts the answer's first token.
        """
        from model_wrappers.selection import ranked

        order = ranked(scores).to(self.visual.device)
        if bool(self.visual[-1]):
            last = len(order) - 1
            order = order[(order != last).argsort(stable=True)]
        return order


class Cut(NamedTuple):
    """What is left of the n visual rows of a Passage."""

    kept: Tensor
    """[k] long, sorted, k >= 1."""
    merged: Tensor | None = None
    """[c, d] rows that stand for several of those that are cut. They come behind the last one kept."""
    places: Tensor | None = None
    """[c] long, none of them kept: the rows in whose places they stand, for `Record.kept` and their own positions."""


@dataclass(frozen=True)
class LayerPruner(Method):
    """Cuts between decoder layers, by a score from the hidden states around the cut.

    With `positions="renumber"` the gaps close at each cut, as PyramidDrop and SparseVLM have it: the layers from there
    on see the shorter numbering, at prefill and while decoding, those before it the one that they began with.
    """

    looks: ClassVar[Literal["before", "behind"]] = "before"
    """At which of the two layers around a cut `score` looks."""
    trims: ClassVar[bool] = False
    """Whether a cut also takes the rows out of the KV caches of the layers before it. These work on more tokens than
    they hold then, and as their keys are rotated already, no cut between layers renumbers: `positions` says how the
    prompt is numbered that enters the first layer."""

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        """{index of the layer at whose input is cut: share of the prompt's visual tokens kept from there on}.

        Indices are 0-based and at least 1, shares do not grow with the index.
        """
        raise NotImplementedError

    def left(self, share: float, n_visual: int, there: int) -> int:
        """Visual tokens behind a cut to `share` of N_v = `n_visual`, where `there` of them enter it."""
        return min(there, budget(share, n_visual))

    def counts(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        plan = self.plan(n_layers, keep) if keep < 1 else {}
        if plan and not 1 <= min(plan) <= max(plan) < n_layers:
            raise UserError(f"{self.name} cuts at the input of layers {sorted(plan)}, of {n_layers} counted from 0")
        counts, there = [], n_visual
        for index in range(n_layers):
            there = self.left(plan[index], n_visual, there) if there and index in plan else there
            counts.append(there)
        return counts

    def held(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        counts = self.counts(n_layers, keep, n_visual)
        return counts[-1:] * n_layers if self.trims else counts

    def score(self, layer: nn.Module, hidden: Tensor, position_embeddings: Any, visual: Tensor) -> Tensor:
        """[n] float for the n visual rows still there; higher is kept.

        Args:
            layer: the decoder layer that `looks` says (it must not be run here).
            hidden: [L, d], what enters that layer, or would enter it uncut; one prompt without padding.
            position_embeddings: (cos, sin), each [L, head_dim].
            visual: [L] bool.
        """
        raise NotImplementedError

    def cut(self, passage: Passage, share: float) -> Cut:
        """What is left behind a cut to `share` of the prompt's N_v visual tokens; the highest by `score`.

        A method that chooses tokens together, or merges some, says so here and counts them in `left`.
        """
        layer, hidden = (
            (passage.before, passage.entered) if self.looks == "before" else (passage.behind, passage.hidden)
        )
        tables = tuple(part.to(hidden.device) for part in passage.position_embeddings)
        scores = self.score(layer, hidden, tables, passage.visual.to(hidden.device))
        count = self.left(share, passage.prompt.n_visual, len(scores))
        return Cut(passage.ranked(scores)[:count].sort().values)
