"""How many visual tokens a sample is for a model under an experiment's settings, without the model or the sample.

Where the settings fix the pixels, the count is exact: 1296, 1569 and 1568 for the paper's 8 frames. Where they give a
range, it is that of a sample of the size that is given, or of the paper's own: an image of 384 x 512 pixels, a video of
720 x 1280 (appendix, Tables 7 and 8).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.estimate.sizes import Sizes
from harness.flops import Shape, shape_of
from harness.published import CONFIGS

PAPER = {"image": Sizes(384, 512, None, 1), "video": Sizes(720, 1280, None, 1)}
"""The paper's inputs; its videos are as long as anybody asks."""
SIDE = 28
"""Pixels along a visual token of Qwen2-VL: 2 x 2 patches of 14."""
PAIR = 2
"""Frames that Qwen2-VL encodes together."""
BOUNDS = {"image": (4 * SIDE**2, 16384 * SIDE**2), "video": (128 * SIDE**2, 768 * SIDE**2)}
"""Least and most pixels where nobody says otherwise: qwen_vl_utils' own."""


@dataclass(frozen=True)
class Input:
    """A sample as a model sees it: visual tokens, and the pictures that its vision encoder takes one by one."""

    visual: int
    pictures: int


def input_of(
    info: Any, settings: Mapping[str, Any], modality: Literal["image", "video"], frames: int, sizes: Sizes | None = None
) -> Input:
    """A sample: its images, or its videos in `frames` frames each, or as many as they have.

    Args:
        info: the model's `harness.models.ModelInfo`.
        settings: of its family's class, over the model's own entry.
        sizes: of the sample; None takes the paper's.
    """
    said, shape, sizes = {**info.defaults, **settings}, shape_of(info.name), sizes or PAPER[modality]
    frames = min(frames, sizes.frames or frames)
    if info.family == "qwen2_vl":
        one = _qwen2_vl(said, modality, frames, sizes)
    elif info.family == "llava_onevision":
        one = _llava_onevision(said, shape, modality, frames, sizes)
    else:
        assert shape.tower is not None  # VILA's shape always tells it
        images = frames if modality == "video" else 1
        one = Input(images * shape.tower.rows, images)
    return Input(sizes.media * one.visual, sizes.media * one.pictures)


def largest_of(info: Any, settings: Mapping[str, Any], modality: Literal["image", "video"], frames: int) -> Input:
    """The most that the settings let one image or video be, of whatever size. Arguments as of `input_of`."""
    said = {**info.defaults, **settings}
    if info.family == "qwen2_vl":
        pictures, (_, high) = _pictures(modality, frames), _bounds(said, modality)
        return Input(pictures * (high // SIDE**2), pictures)
    if info.family == "llava_onevision" and modality == "image":
        shapes = [Sizes(height, width, None, 1) for height, width in _canvases(shape_of(info.name), said)]
        found = [input_of(info, settings, modality, frames, each) for each in shapes]
        return Input(max(each.visual for each in found), max(each.pictures for each in found))
    return input_of(info, settings, modality, frames)  # images of one size


def _bounds(said: Mapping[str, Any], modality: Literal["image", "video"]) -> tuple[int, int]:
    """Least and most pixels of a picture that Qwen2-VL is given."""
    if modality == "image" and said.get("image_pixels"):
        return said["image_pixels"], said["image_pixels"]
    return said.get("min_pixels") or BOUNDS[modality][0], said.get("max_pixels") or BOUNDS[modality][1]


def _pictures(modality: Literal["image", "video"], frames: int) -> int:
    return math.ceil(frames / PAIR) if modality == "video" else 1


def _qwen2_vl(said: Mapping[str, Any], modality: Literal["image", "video"], frames: int, sizes: Sizes) -> Input:
    (low, high), pictures = _bounds(said, modality), _pictures(modality, frames)
    if low == high:
        return Input(pictures * (low // SIDE**2), pictures)
    rows, columns = fitted(sizes.height, sizes.width, low, high)
    return Input(pictures * rows * columns, pictures)


def fitted(height: int, width: int, low: int, high: int) -> tuple[int, int]:
    """Rows and columns of visual tokens of a picture that Qwen2-VL brings to between `low` and `high` pixels: what
    qwen_vl_utils' `smart_resize` gives, which loads torch.
    """
    rows, columns = max(1, round(height / SIDE)), max(1, round(width / SIDE))
    if rows * columns * SIDE**2 > high:
        scale = math.sqrt(height * width / high)
        return max(1, math.floor(height / scale / SIDE)), max(1, math.floor(width / scale / SIDE))
    if rows * columns * SIDE**2 < low:
        scale = math.sqrt(low / (height * width))
        return math.ceil(height * scale / SIDE), math.ceil(width * scale / SIDE)
    return rows, columns


def _llava_onevision(said: Mapping[str, Any], shape: Shape, modality: str, frames: int, sizes: Sizes) -> Input:
    assert shape.tower is not None and shape.tower.tiling is not None
    side = math.isqrt(shape.tower.rows)
    if modality == "video":
        return Input(frames * math.ceil(side / 2) ** 2 + 1, frames)  # and the one newline
    tiling, size = replace(shape.tower.tiling, canvases=_canvases(shape, said)), (sizes.height, sizes.width)
    return Input(tiling.tokens(size, side), tiling.pictures(size))


def _canvases(shape: Shape, said: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Heights and widths that LLaVA-OneVision may lay an image out in."""
    assert shape.tower is not None and shape.tower.tiling is not None
    most = said.get("max_pixels") or math.inf
    return tuple(canvas for canvas in shape.tower.tiling.canvases if canvas[0] * canvas[1] <= most)


def config_of(info: Any) -> dict[str, Any]:
    """A model's config.json: its folder's, or what is known of a published one."""
    if info.path_or_hub_id in CONFIGS:
        return CONFIGS[info.path_or_hub_id]
    return json.loads((Path(info.path_or_hub_id) / "config.json").read_text("utf-8"))
