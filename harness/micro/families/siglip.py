"""What the two families with a SigLIP tower share: its size, and pictures as it takes them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.micro.families.base import disturbed

SIZE, PATCH = 168, 14
PATCHES = SIZE // PATCH
"""Patches along one side: 12, of which 2 x 2 become one visual token of a video frame, which is one cell of a scene."""


def tower_config(layers: int) -> dict[str, Any]:
    """A SigLIP tower of width 64."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": PATCH,
        "vision_use_head": False,
    }


def initialise(tower: torch.nn.Module, projector: torch.nn.Module, seed: int) -> None:
    """Fan-in initialisation with small outputs of the residual branches, as the other micro tower has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (tower, projector):
            for name, parameter in module.named_parameters():
                if parameter.ndim == 1:
                    if name.endswith("bias"):
                        parameter.zero_()
                    continue
                scale = 0.1 if name.endswith(("out_proj.weight", "fc2.weight")) else 1.0
                std = 0.3 if "position_embedding" in name else scale * parameter[0].numel() ** -0.5
                parameter.normal_(0.0, std, generator=generator)


def squeezed(pixels: Tensor, noise: torch.Generator | None) -> Tensor:
    """Pictures uint8 [B, n, H, W, 3] as the image processor gives them: float [B * n, 3, SIZE, SIZE] in [-1, 1]."""
    x = pixels.float().div(255).permute(0, 1, 4, 2, 3)
    x = disturbed(x, noise).flatten(0, 1)
    if x.shape[-1] != SIZE:
        x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return x * 2 - 1
