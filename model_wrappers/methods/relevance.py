"""Explainability relevance (arXiv 2506.01097, section 3.2): the upper line, and the teacher of `cnn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.methods.base import Scorer
from model_wrappers.shape import product

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class Relevance(Scorer):
    """Eq. 1 on the model's own greedy response, mean over its tokens. Cut at the LLM input.

    The rule is that of generic attention explainability (arXiv 2103.15679; hila-chefer/Transformer-MM-Explainability),
    its self-attention part alone: A is post-softmax, A * dY/dA is clamped at 0 in each head before the mean. Heads are
    query heads: where a group of them shares a key head, each has its own map.

    It needs the answer before it can cut, so it is an analysis and not a way to save time; its cost is recorded.
    """

    name: ClassVar[str] = "relevance"
    needs_response: ClassVar[bool] = True
    counted_as: ClassVar[str] = (
        "it is short enough to keep what every layer computes (the textbook form); of a longer one the layers run again"
    )
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

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        """The answer by the whole model, one forward pass over prompt and answer, and for each token of the answer a
        row of R and a backward pass down to the first layer's attention: the textbook form. What `relevance.streaming`
        computes again of a long prompt, to save memory, is left out.
        """
        decoder, answer = shape.decoder, prompt.response
        steps = (decoder.layers * decoder.layer(1, prompt.length + step) + decoder.head(1) for step in range(1, answer))
        total = decoder.forward([prompt.length] * decoder.layers) + decoder.head(1) + sum(steps)
        rows = prompt.length + answer - 1
        total += decoder.forward([rows] * decoder.layers) + decoder.head(answer)
        total += decoder.layers * sum(product(1, row, row) for row in range(prompt.length, rows + 1))
        if self.head_weights == "mean":
            return total
        one = product(rows, decoder.query, rows)
        # Each product has one for the gradient of its input; one of two activations, as in attention, has two.
        layer = decoder.layer(rows) + 2 * one
        first = decoder.after_attention(rows) + one
        return total + answer * ((decoder.layers - 1) * layer + first + decoder.head(answer))

    def paper_flops(self, shape: Shape, n_visual: int) -> None:
        """It runs the whole model before it chooses, which that count has no term for."""
