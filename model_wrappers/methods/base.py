"""The kinds of method. A method says *which* visual tokens; the framework counts, cuts, positions and caches.

A method is a frozen dataclass whose fields are its hyper-parameters: equal fields, equal method, one cell of a table.
This module and the methods load torch only when they are used, so that names can be checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model_wrappers.prompt import VisualPrompt


@dataclass(frozen=True)
class Method:
    """Any method. Use one of the kinds below."""

    name: ClassVar[str] = ""
    """The name in tables and specs."""
    positions: ClassVar[str] = "own"
    """A kept token keeps its own position ids, and decoding goes on after the uncut length."""
    needs_response: ClassVar[bool] = False
    """Whether scoring looks at the model's own greedy response (`prompt.cache['response_ids']`)."""

    def check(self, model: Any) -> None:
        """Raises UserError where the method cannot run on this model; called before anything is hooked."""


@dataclass(frozen=True)
class Vanilla(Method):
    """Keeps everything; the model is not touched. Only with keep = 1."""

    name: ClassVar[str] = "vanilla"


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
class LayerPruner(Method):
    """Cuts between decoder layers, by a score from the hidden states that enter the layer before the cut."""

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
