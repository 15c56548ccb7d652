"""`oracle` and `anti-oracle`: what a method could reach at best and at worst, where the evidence is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt


@dataclass(frozen=True)
class Oracle(Scorer):
    """Keeps the visual tokens that the question is about first, then others at random (by the prompt's sample id)."""

    name: ClassVar[str] = "oracle"
    sign: ClassVar[int] = 1

    def score(self, model: Any, prompt: VisualPrompt) -> Tensor:
        """[N_v] float. UserError if nobody knows what the question is about."""
        import torch

        if prompt.evidence is None:
            raise UserError(f"{self.name} needs the evidence file of generated scenes: it runs on micro data only")
        seed = int.from_bytes(hashlib.sha256(prompt.sample_id.encode()).digest()[:8], "big")
        rest = torch.rand(prompt.n_visual, generator=torch.Generator().manual_seed(seed))
        return self.sign * 2.0 * prompt.evidence.float() + rest.to(prompt.evidence.device)


@dataclass(frozen=True)
class AntiOracle(Oracle):
    """Keeps the visual tokens that the question is about last: what is answered without them is guessed."""

    name: ClassVar[str] = "anti-oracle"
    sign: ClassVar[int] = -1
