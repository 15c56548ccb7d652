"""How large the samples of an opened benchmark are: what a few of them show."""

from __future__ import annotations

from statistics import median_low
from typing import Any, NamedTuple

from model_wrappers.errors import SampleError

LOOKED_AT = 8
"""Samples of a benchmark, evenly spread over it."""


class Sizes(NamedTuple):
    """Of a typical sample: height and width in pixels, frames of a video (images have none), images or videos shown."""

    height: int
    width: int
    frames: int | None
    media: int


def sizes_of(opened: Any) -> Sizes | None:
    """The sizes of a benchmark's typical sample, by area; None where none of those looked at can be read."""
    step = max(1, len(opened) // LOOKED_AT)
    found = []
    for position in range(0, len(opened), step):
        try:
            paths = opened.media(position)
        except SampleError:  # the run records why
            continue
        if paths and opened.problem(position) is None:
            found.append(Sizes(*_size(paths[0], opened.modality), len(paths)))
    if not found:
        return None
    area = median_low(each.height * each.width for each in found)
    return next(each for each in found if each.height * each.width == area)


def _size(path: str, modality: str) -> tuple[int, int, int | None]:
    if modality == "image":
        from PIL import Image

        with Image.open(path) as image:
            return image.height, image.width, None
    import decord

    reader = decord.VideoReader(path)
    height, width, _ = reader[0].shape
    return height, width, len(reader)
