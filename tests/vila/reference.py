"""VILA1.5 once more, slowly and part by part, from the published files and Hugging Face's own tower and decoder."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, SiglipVisionModel


def cells(patches: Tensor, order: str) -> Tensor:
    """[g * g, C] patches of one image -> [h * h, 4 C], one cell after the other."""
    side = math.isqrt(patches.shape[0])
    nothing = torch.zeros(patches.shape[1])

    def patch(row: int, column: int) -> Tensor:
        return patches[row * side + column] if row < side and column < side else nothing

    half = math.ceil(side / 2)
    places = [(row, column) for row in range(half) for column in range(half)]
    if order == "column":
        places = [(row, column) for column, row in places]
    joined = []
    for r, c in places:
        four = [(2 * r, 2 * c), (2 * r, 2 * c + 1), (2 * r + 1, 2 * c), (2 * r + 1, 2 * c + 1)]
        joined.append(torch.cat([patch(*place) for place in four]))
    return torch.stack(joined)


def project(folder: Path, patches: Tensor, order: str) -> Tensor:
    """[h * h, d] visual tokens of one image, by the formulas of LayerNorm and of the exact GELU."""
    weight = load_file(folder / "mm_projector" / "model.safetensors")
    x = cells(patches, order)
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt() * weight["layers.1.weight"] + weight["layers.1.bias"]
    x = x @ weight["layers.2.weight"].T + weight["layers.2.bias"]
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return x @ weight["layers.4.weight"].T + weight["layers.4.bias"]


@torch.no_grad()
def features(folder: Path, pixel_values: Tensor, order: str = "column") -> list[Tensor]:
    """Visual tokens of each image: what enters the tower's last layer, projected."""
    tower = SiglipVisionModel.from_pretrained(folder / "vision_tower").eval()
    patches = tower.embeddings(pixel_values)
    for layer in tower.encoder.layers[:-1]:
        patches = layer(patches, None)
    return [project(folder, one, order) for one in patches]


@torch.no_grad()
def logits(folder: Path, input_ids: list[int], placeholder: int, images: list[Tensor]) -> Tensor:
    """[L, vocabulary] logits of one prompt whose runs of placeholders are the images, in their order."""
    decoder = LlamaForCausalLM.from_pretrained(folder / "llm").eval()
    visual = iter(torch.cat(images)) if images else iter(())
    table = decoder.model.embed_tokens.weight
    embeds = torch.stack([next(visual) if token == placeholder else table[token] for token in input_ids])
    assert next(visual, None) is None
    return decoder(inputs_embeds=embeds[None]).logits[0]
