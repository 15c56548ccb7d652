"""Explainability relevance (arXiv 2506.01097, section 3.2): the upper line, and the teacher of `cnn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt


@dataclass(frozen=True)
class Relevance(Scorer):
    """Eq. 1 on the model's own greedy response, mean over its tokens. Cut at the LLM input.

    It needs the answer before it can cut, so it is an analysis and not a way to save time; its cost is recorded.
    """

    name: ClassVar[str] = "relevance"
    needs_response: ClassVar[bool] = True
    head_weights: Literal["grad", "mean"] = "grad"
    clamp: bool = True
    target: Literal["logit", "margin", "logprob"] = "logit"

    def score(self, model: Any, prompt: VisualPrompt) -> Tensor:
        from model_wrappers.relevance.response import greedy_response
        from model_wrappers.relevance.streaming import prompt_relevance

        return prompt_relevance(
            model,
            prompt,
            greedy_response(model, prompt),
            head_weights=self.head_weights,
            clamp=self.clamp,
            target=self.target,
        )
