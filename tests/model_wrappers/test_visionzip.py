"""VisionZip against its literal reference, and what mergers see of the vision encoder against an eager run of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from model_wrappers import budget, encode
from model_wrappers.methods.frames import videos
from model_wrappers.methods.visionzip import VisionZip
from tests.model_wrappers import merging_reference as reference
from tests.model_wrappers.conftest import MIXED, PROMPTS, TEXT
from tests.model_wrappers.merging_prompts import (
    check,
    frames_by_hand,
    shown,
    videos_by_hand,
)
from tests.model_wrappers.table import Family


def tower_of_qwen2_vl(model: Any, inputs: Any, kind: str) -> Tensor:
    """[patches, 1 + head_dim]: attention received and key of each patch, frame by frame and head by head."""
    core, kept = model.model, {}
    block = core.visual.blocks[-2]
    handles = [
        block.attn.qkv.register_forward_hook(lambda module, args, output: kept.update(qkv=output)),
        block.register_forward_pre_hook(
            lambda module, args, kwargs: kept.update(rope=kwargs["position_embeddings"]), with_kwargs=True
        ),
    ]
    pixels, grid = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
    with torch.no_grad():
        core.visual(inputs[pixels], grid_thw=inputs[grid])
    for handle in handles:
        handle.remove()
    heads = core.visual.config.num_heads
    query, plain, _ = kept["qkv"].unflatten(1, (3, heads, -1)).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, plain, *kept["rope"])
    found, start = [], 0
    for time, height, width in inputs[grid].tolist():
        for _ in range(time):
            rows = slice(start, start + height * width)
            received = torch.zeros(height * width)
            for head in range(heads):
                scores = query[rows, head] @ key[rows, head].T / query.shape[-1] ** 0.5
                received += scores.softmax(dim=-1).mean(dim=0) / heads
            found.append(torch.cat((received[:, None], plain[rows].mean(dim=1)), dim=1))
            start += height * width
    return torch.cat(found)


def tower_of_siglip(model: Any, pixels: Tensor) -> Tensor:
    """[tiles, patches, 1 + head_dim]."""
    tower, kept = model.model.vision_tower, {}
    tower.set_attn_implementation("eager")
    attention = getattr(tower, "vision_model", tower).encoder.layers[-2].self_attn
    handles = [
        attention.k_proj.register_forward_hook(lambda module, args, output: kept.update(keys=output)),
        attention.register_forward_hook(lambda module, args, output: kept.update(weights=output[1])),
    ]
    with torch.no_grad():
        tower(pixels)
    for handle in handles:
        handle.remove()
    tower.set_attn_implementation("sdpa")
    keys = kept["keys"].unflatten(2, (attention.num_heads, -1)).mean(dim=2)
    return torch.cat((kept["weights"].mean(dim=(1, 2))[..., None], keys), dim=-1)


def tower_by_token(model: Any, inputs: Any, family: Family, kind: str) -> Tensor:
    """[N_v, 1 + head_dim] of a prompt like IMAGE, VIDEO or MIXED; a newline has NaN."""
    if kind == "mixed" and family.name != "vila":
        return torch.cat([tower_by_token(model, inputs, family, each) for each in ("image", "video")])
    if family.name == "qwen2_vl":
        patches = tower_of_qwen2_vl(model, inputs, kind)
        return torch.stack([patches[start : start + 4].mean(dim=0) for start in range(0, len(patches), 4)])
    if family.name == "vila":
        found = []
        for tile in tower_of_siglip(model, inputs["pixel_values"]):
            for token in range(9):
                column, row = divmod(token, 3) if model.config.token_order == "column" else divmod(token, 3)[::-1]
                inside = [
                    5 * y + x for y in (2 * row, 2 * row + 1) for x in (2 * column, 2 * column + 1) if y < 5 and x < 5
                ]
                found.append(tile[inside].mean(dim=0))
        return torch.stack(found)
    if kind == "video":
        tiles = tower_of_siglip(model, inputs["pixel_values_videos"][0])
        grid = tiles.unflatten(1, (3, 3)).permute(0, 3, 1, 2)
        pooled = torch.nn.functional.interpolate(grid, size=(2, 2), mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)
        return torch.cat((pooled, torch.full_like(pooled[:1], torch.nan)))
    found = []
    for pixels in inputs["pixel_values"]:
        tiles = tower_of_siglip(model, pixels).unflatten(1, (3, 3))
        found += list(tiles[0].flatten(0, 1))
        for y in range(1, 5):  # the canvas of 2 x 2 tiles loses the padded first and last of its 6 rows
            found += [tiles[1 + 2 * (y // 3) + x // 3, y % 3, x % 3] for x in range(6)]
            found.append(torch.full_like(found[0], torch.nan))
    return torch.stack(found)


@pytest.mark.parametrize("media", ["image", "video", "mixed"])
def test_what_the_encoder_knew_equals_an_eager_run(model: Any, ask: Any, family: Family, media: str) -> None:
    inputs = ask(PROMPTS[media])
    expected = tower_by_token(model, inputs, family, media)
    (prompt,) = encode(model, inputs)
    found = torch.cat((prompt.vision.attention[:, None], prompt.vision.keys), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, equal_nan=True)
    both = encode(model, ask(MIXED, TEXT, PROMPTS[media]))[2]
    torch.testing.assert_close(both.vision.attention, expected[:, 0], atol=1e-5, rtol=1e-4, equal_nan=True)
    assert [video.tolist() for video in videos(model, prompt)] == videos_by_hand(family, media)


@pytest.mark.parametrize("media", ["image", "video", "mixed"])
@pytest.mark.parametrize("keep", [0.9, 0.4, 0.15])
def test_visionzip(model: Any, ask: Any, family: Family, media: str, keep: float) -> None:
    for seed in (0, 1):
        inputs = ask(shown(media, seed))
        (prompt,) = encode(model, inputs)
        tower = tower_by_token(model, inputs, family, media)
        patch = ~tower[:, 0].isnan()
        frames = [[token for token in frame if patch[token]] for frame in frames_by_hand(family, media)]
        features = list(prompt.inputs_embeds[prompt.visual_rows])
        k = budget(keep, prompt.n_visual)
        expected = reference.visionzip(features, frames, tower[:, 0].tolist(), list(tower[:, 1:]), k)
        assert len(check(model, prompt, VisionZip(), keep, expected)) == k


def test_visionzips_counts() -> None:
    """The paper's three settings, of 576 tokens: 54 + 10, 108 + 20, 162 + 30."""
    generator = torch.Generator().manual_seed(0)
    attention, keys = torch.rand(576, generator=generator), torch.rand(576, 8, generator=generator)
    found = [[len(part) for part in VisionZip()._split(attention, keys, k)[:2]] for k in (64, 128, 192)]
    assert found == [[54, 10], [108, 20], [162, 30]]
