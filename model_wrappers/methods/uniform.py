"""Evenly spaced tokens: the cheapest baseline that covers the whole image or video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.methods.base import Selector

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class Uniform(Selector):
    """Token floor((i + 1/2) * N_v / k) for i = 0 .. k-1: the middle of each of k equal stretches. Cut at the LLM
    input."""

    name: ClassVar[str] = "uniform"

    def select(self, model: Any, prompt: VisualPrompt, k: int) -> Tensor:
        import torch

        return (2 * torch.arange(k, device=prompt.visual.device) + 1) * prompt.n_visual // (2 * k)

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        return 0.0
