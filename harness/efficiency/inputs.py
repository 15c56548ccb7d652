"""A made-up picture or video with a given number of visual tokens, as a family's processor would hand it over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from model_wrappers.errors import UserError
from model_wrappers.families import extents
from model_wrappers.vila.projector import token_places

Media = Literal["image", "video"]

BEFORE, AFTER = 20, 20
"""Tokens of text before and after the visual ones."""
LETTERS = 256
"""Text is drawn from the first ids of a vocabulary, where no family has a special token."""
MOST_TIMES = 16
"""Steps of time of a made-up Qwen2-VL video at most, each two frames: the paper's 32 frames."""


@dataclass(frozen=True, eq=False)
class Input:
    """What a processor would return for one prompt, and what a family's class tells of its visual tokens."""

    tensors: dict[str, Tensor]
    media: Media
    extents: Tensor
    """[N_v, 6], as `VisualPrompt.extents`."""
    said: str
    """The picture or video in words."""

    @property
    def n_visual(self) -> int:
        """N_v, the number of visual tokens."""
        return len(self.extents)


def make(config: Any, tokens: int, media: Media, least_pixels: int = 0) -> Input:
    """An input of random pixels with `tokens` visual tokens (LLaVA-OneVision: a video's newline not counted).

    `least_pixels`: of a Qwen2-VL video's frame. Of the same number of tokens, a method that merges or leaves out along
    time makes something else of many small frames than of a few large ones.

    Raises:
        UserError: the family makes no such number of tokens of a picture or video.
    """
    qwen2_vl = partial(_qwen2_vl, least_pixels=least_pixels)
    makers: dict[str, Any] = {"qwen2_vl": qwen2_vl, "llava_onevision": _llava_onevision, "retain_vila": _vila}
    pixels, shown, said = makers[config.model_type](config, tokens, media)
    named = "video_token_id" if media == "video" and hasattr(config, "video_token_id") else "image_token_id"
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(LETTERS, (BEFORE + AFTER,), generator=generator)
    visual = torch.full((len(shown),), getattr(config, named))
    ids = torch.cat((text[:BEFORE], visual, text[BEFORE:]))[None]
    drawn = {
        name: torch.randn(value, generator=generator) if isinstance(value, tuple) else value
        for name, value in pixels.items()
    }
    return Input({"input_ids": ids, "attention_mask": torch.ones_like(ids), **drawn}, media, shown, said)


Made = tuple[dict[str, Any], Tensor, str]
"""Inputs by name, of which a tuple is the shape of pixels to be drawn; extents; words."""


def _qwen2_vl(config: Any, tokens: int, media: Media, *, least_pixels: int) -> Made:
    """The grid nearest to a square: any number of tokens is one, if need be a line; a video has as many as can be."""
    vision = config.vision_config
    merge, patch, frames = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size
    most = min(MOST_TIMES, tokens * (merge * patch) ** 2 // max(1, least_pixels)) if media == "video" else 1
    times = max(t for t in range(1, max(1, most) + 1) if tokens % t == 0)
    cells = tokens // times
    rows = max(r for r in range(1, math.isqrt(cells) + 1) if cells % r == 0)
    columns = cells // rows
    grid = torch.tensor([[times, rows * merge, columns * merge]])
    shape = (int(grid.prod()), vision.in_channels * frames * patch**2)
    size = f"{rows * merge * patch} x {columns * merge * patch} pixels"
    if media == "video":
        shown = extents.video(times, rows, columns)
        return {"pixel_values_videos": shape, "video_grid_thw": grid}, shown, f"{times * frames} frames of {size}"
    return {"pixel_values": shape, "image_grid_thw": grid}, extents.grid((0.0, 1.0), rows, columns), size


def _llava_onevision(config: Any, tokens: int, media: Media) -> Made:
    vision = config.vision_config
    tile, side = vision.image_size, vision.image_size // vision.patch_size
    if media == "video":
        pooled = -(-side // 2)
        frames, rest = divmod(tokens, pooled**2)
        if not frames or rest > 1:
            raise UserError(_said(tokens, f"a video frame has {pooled**2}, and a video one more for its newline"))
        shown = torch.cat((extents.video(frames, pooled, pooled), extents.NOWHERE))
        return {"pixel_values_videos": (1, frames, 3, tile, tile)}, shown, f"{frames} frames of {tile} x {tile} pixels"
    found = _sizes(config.image_grid_pinpoints, tile, side, int(config.vision_aspect_ratio.removeprefix("anyres_max_")))
    if tokens not in found:
        near = sorted(sorted(found, key=lambda count: abs(count - tokens))[:4])
        raise UserError(_said(tokens, f"near that, an image has {', '.join(map(str, near))}"))
    (height, width), shown = found[tokens]
    tiles = image_size_to_num_patches([height, width], config.image_grid_pinpoints, tile)
    pixels = {"pixel_values": (1, tiles, 3, tile, tile), "image_sizes": torch.tensor([[height, width]])}
    return pixels, shown, f"{height} x {width} pixels"


def _sizes(pinpoints: list[list[int]], tile: int, side: int, most: int) -> dict[int, tuple[tuple[int, int], Tensor]]:
    """By number of tokens, the smallest picture that has so many, its sides in thirds of a tile, and its extents."""
    longest, step = max(side for canvas in pinpoints for side in canvas), tile // 3
    found: dict[int, tuple[tuple[int, int], Tensor]] = {}
    for height in range(step, longest + 1, step):
        for width in range(height, longest + 1, step):
            shown = extents.anyres((height, width), (0.0, 1.0), pinpoints=pinpoints, tile=tile, side=side, most=most)
            found.setdefault(len(shown), ((height, width), shown))
    return found


def _vila(config: Any, tokens: int, media: Media) -> Made:
    each, side = config.n_image_tokens, config.vision_config.image_size
    frames, rest = divmod(tokens, each)
    if rest or not frames or (media == "image" and frames > 1):
        raise UserError(_said(tokens, f"an image has {each}, a video a multiple of that"))
    places = token_places(config)
    start = torch.arange(frames).repeat_interleave(each)[:, None]
    shown = torch.cat((torch.cat((start, start + 1), dim=1) / frames, places.repeat(frames, 1)), dim=1)
    what = f"{side} x {side} pixels"
    return {"pixel_values": (frames, 3, side, side)}, shown, what if media == "image" else f"{frames} frames of {what}"


def _said(tokens: int, allowed: str) -> str:
    return f"--tokens {tokens} cannot be made: {allowed}"
