"""A smaller image through the same vision encoder: the baseline that many methods fall below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from model_wrappers.methods.base import InputTransform
from model_wrappers.rounding import budget

if TYPE_CHECKING:
    from model_wrappers.pictures import Picture
    from model_wrappers.shape import PromptSize, Tower


@dataclass(frozen=True)
class Downsample(InputTransform):
    """All images of a prompt, or all frames of its video, smaller by one factor; every frame stays.

    The baseline of VTC-Bench (arXiv 2510.07143): the image resized to the budget of the methods beside it. Here to the
    size whose visual tokens are nearest to the budget:

    - Qwen2-VL: pixels; each side a multiple of 28, rounded to the nearest, so that the shape stays.
    - LLaVA-OneVision: each tile or frame has fewer patches a side, the layout of the tiles stays. SigLIP was trained at
      one size: its position embeddings are interpolated (bicubic), as Hugging Face's class does on request.
    - VILA: each image or frame has fewer patches a side, SigLIP's position embeddings interpolated in the same way; the
      projector joins 2 x 2 patches, an odd side padded, as it does at full size.

    The smaller image is resampled (bicubic, antialiased) from the pixels that the processor made of the full one.
    """

    name: ClassVar[str] = "downsample"
    counted_as: ClassVar[str] = "a size gives as many visual tokens as the budget, if pictures have any size"

    def versions(self, pictures: Sequence[Picture]) -> Iterable[Sequence[Picture]]:
        scales = sorted({scale for picture in pictures for scale in picture.scales()})
        return [[picture.scaled(scale) for picture in pictures] for scale in scales]

    def encoded(self, tower: Tower, prompt: PromptSize, keep: float) -> tuple[Tower, PromptSize] | None:
        """None of an image in tiles whose size nobody says: how many of their tokens are newlines or would show
        padding, their number does not tell.
        """
        if tower.patches is None:
            return tower, replace(prompt, visual=max(budget(keep, prompt.visual), prompt.pictures))
        full, size, tiling = math.isqrt(tower.patches), prompt.size, tower.tiling
        joined = 2 if tower.merged > 1 or prompt.media == "video" else 1  # patches a side of a token

        def tokens(side: int) -> int:
            if size is not None and tiling is not None:
                return tiling.tokens(size, side)
            return prompt.pictures * math.ceil(side / joined) ** 2

        newlines = prompt.visual - tokens(full)
        if newlines not in (0, 1, prompt.pictures):  # one a video, or one for each of several images, shown whole
            return None
        k = budget(keep, prompt.visual - newlines)
        side = min(range(1, full + 1), key=lambda side: (abs(tokens(side) - k), tokens(side), -side))
        rows = math.ceil(side / 2) ** 2 if tower.merged > 1 else side**2
        return replace(tower, patches=side**2, rows=rows), replace(prompt, visual=tokens(side) + newlines)
