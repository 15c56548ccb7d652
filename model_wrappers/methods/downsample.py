"""A smaller image through the same vision encoder: the baseline that many methods fall below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.errors import UserError
from model_wrappers.methods.base import InputTransform

if TYPE_CHECKING:
    from model_wrappers.pictures import Picture

_ONE_SIZE = {
    "llava_llama": "VILA makes equally many visual tokens of every image",
    "retain_vila": "VILA makes equally many visual tokens of every image",
}
"""Families whose vision encoder has one size."""


@dataclass(frozen=True)
class Downsample(InputTransform):
    """All images of a prompt, or all frames of its video, smaller by one factor; every frame stays.

    The baseline of VTC-Bench (arXiv 2510.07143): the image resized to the budget of the methods beside it. Here to the
    largest size whose visual tokens are within the budget:

    - Qwen2-VL: pixels; each side a multiple of 28, rounded to the nearest, so that the shape stays.
    - LLaVA-OneVision: each tile or frame has fewer patches a side, the layout of the tiles stays. SigLIP was trained at
      one size: its position embeddings are interpolated (bicubic), as Hugging Face's class does on request.
    - VILA: not defined, its projector makes 196 visual tokens of every image.

    The smaller image is resampled (bicubic, antialiased) from the pixels that the processor made of the full one.
    """

    name: ClassVar[str] = "downsample"

    def check(self, model: Any) -> None:
        if why := _ONE_SIZE.get(model.config.model_type):
            raise UserError(f"downsample: {why}, so there is no smaller one")

    def undefined(self, family: str, shows: str) -> str | None:
        return super().undefined(family, shows) or _ONE_SIZE.get(family)

    def versions(self, pictures: Sequence[Picture]) -> Iterable[Sequence[Picture]]:
        scales = sorted({scale for picture in pictures for scale in picture.scales()})
        return [[picture.scaled(scale) for picture in pictures] for scale in scales]
