"""Random tokens: the floor that a method has to beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class Random(Scorer):
    """Independent uniform scores, drawn from (`seed`, the prompt's sample id): the same again on another day.

    One draw serves every keep, so the tokens kept at 0.1 are among those kept at 0.5. Cut at the LLM input.
    """

    name: ClassVar[str] = "random"
    seed: int = 0

    def score(self, model: Any, prompt: VisualPrompt) -> Tensor:
        import torch

        digest = hashlib.sha256(f"{self.seed}:{prompt.sample_id}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        return torch.rand(prompt.n_visual, generator=generator).to(prompt.visual.device)

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        return 0.0
