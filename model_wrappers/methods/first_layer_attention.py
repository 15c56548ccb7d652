"""The compressor's input by itself: what a CNN on top of it adds is the difference to `cnn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class FirstLayerAttention(Scorer):
    """A_v^0 of arXiv 2506.01097, section 3.3: first-layer attention of the instruction to each visual token. Cut at the
    LLM input.

    Post-softmax, mean over query heads (where a group of them shares a key head, each has its own map), then over the
    rows behind the last visual token. No code of the authors is published.
    """

    name: ClassVar[str] = "first_layer_attention"

    def score(self, model: Any, prompt: VisualPrompt) -> Tensor:
        from model_wrappers.relevance.attention import prompt_first_layer_attention

        return prompt_first_layer_attention(model, prompt)

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        return shape.decoder.attention_rows(max(1, prompt.instruction), prompt.length)

    def paper_flops(self, shape: Shape, n_visual: int) -> float:
        """Eq. 5: the keys of the visual tokens, and their products with one query: nd^2 + nd."""
        return n_visual * shape.decoder.hidden**2 + n_visual * shape.decoder.hidden
