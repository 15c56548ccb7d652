"""DivPrune: Diversity-based Visual Token Pruning (arXiv 2503.02175; vbdi/divprune, LLaVA/llava/model/llava_arch.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.methods.base import Selector
from model_wrappers.rounding import budget
from model_wrappers.shape import product

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape

BLOCK = 1024
"""Rows of the distance matrix that are looked at together."""


@dataclass(frozen=True)
class DivPrune(Selector):
    """Max-min diversity of the projected tokens, distance 1 - cosine. Cut at the LLM input.

    The first token is the one farthest from its nearest other; each next one the farthest from its nearest among those
    chosen. Nothing of the question is looked at, so there is no place where GQA or a tower without CLS matters.

    Where the official code differs: it rounds a half to even (the one rounding rule holds here); it may choose a token
    twice where all that are left equal chosen ones (here each is chosen once); its positions are counted anew, so
    "renumber" is the default. All images of a prompt are one set, as the tiles of an image are in its LLaVA-1.6.
    """

    name: ClassVar[str] = "divprune"
    positions: Literal["own", "renumber"] = field(default="renumber", kw_only=True)

    def select(self, model: Any, prompt: VisualPrompt, k: int) -> Tensor:
        import torch

        tokens = torch.nn.functional.normalize(prompt.inputs_embeds[prompt.visual_rows].float(), dim=1)
        count = tokens.shape[0]
        # The nearest other is the second nearest of all, itself included; in blocks, since N_v x N_v may not fit.
        nearest = torch.cat(
            [(1 - block @ tokens.T).topk(min(2, count), largest=False).values[:, -1] for block in tokens.split(BLOCK)]
        )
        chosen: list[int] = []
        for _ in range(k):
            if chosen:
                distance = 1 - tokens @ tokens[chosen[-1]]
                nearest = distance if len(chosen) == 1 else torch.minimum(nearest, distance)
                nearest[chosen] = float("-inf")
            chosen.append(int(nearest.argmax()))
        return torch.tensor(sorted(chosen), device=tokens.device)

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        """All pairs for the first token, and each chosen one but the last with all tokens."""
        columns = prompt.visual + budget(keep, prompt.visual) - 1
        return product(prompt.visual, shape.decoder.hidden, columns)
