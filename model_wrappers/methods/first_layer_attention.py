"""The compressor's input by itself: what a CNN on top of it adds is the difference to `cnn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt


@dataclass(frozen=True)
class FirstLayerAttention(Scorer):
    """A_v^0 of paper section 3.3: first-layer attention of the instruction to each visual token. Cut at the LLM
    input."""

    name: ClassVar[str] = "first_layer_attention"

    def score(self, model: Any, prompt: VisualPrompt) -> Tensor:
        from model_wrappers.relevance.attention import prompt_first_layer_attention

        return prompt_first_layer_attention(model, prompt)
