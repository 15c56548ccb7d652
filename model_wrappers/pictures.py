"""The images and videos of a prompt before the vision encoder, and how each family's can be made cheaper.

Everything starts from the pixels that the processor returned, so a cheaper picture shows what the full one shows, and
the same code serves a sweep and `compress`. Nothing is resampled before `pixels` is asked for: to know how many visual
tokens a version has costs nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, Self

import torch
from torch import Tensor

from model_wrappers.families import extents

HALF = Fraction(1, 2)


@dataclass(frozen=True, eq=False)
class Picture(ABC):
    """One image or video of a prompt.

    `frames` [T, C, H, W]: normalised pixels of an image (T as the processor repeats it), of its tiles, or of a video's
    frames. `scale` in (0, 1]: of each side. `chosen`: indices of the frames that are left, None is all of them.
    """

    media: Literal["image", "video"]
    frames: Tensor
    scale: Fraction = Fraction(1)
    chosen: tuple[int, ...] | None = None

    @property
    @abstractmethod
    def sides(self) -> tuple[int, ...]:
        """Sides of the full size in the family's units, below which nothing can be cut off."""

    @property
    @abstractmethod
    def runs(self) -> list[int]:
        """Lengths of the runs of placeholders that stand for it."""

    @property
    def fixed(self) -> int:
        """How many of its tokens show no place, and stay whatever its size or length."""
        return 0

    @property
    def step(self) -> int:
        """Frames come in multiples of this."""
        return 1

    @property
    def tokens(self) -> int:
        """Visual tokens that the vision encoder makes of it."""
        return sum(self.runs)

    @property
    def length(self) -> int:
        """Frames that are left."""
        return len(self.frames) if self.chosen is None else len(self.chosen)

    def scales(self) -> set[Fraction]:
        """The smallest scale of each size that it can have, its shape kept to the nearest unit."""
        return {Fraction(2 * unit + 1, 2 * side) for side in self.sides for unit in range(side)}

    def scaled(self, scale: Fraction) -> Self:
        """It at another size."""
        return replace(self, scale=scale)

    def shares(self) -> set[Fraction]:
        """The smallest share of each number of frames that it can have; an image has one."""
        total = len(self.frames)
        if self.media == "image":
            return {Fraction(1)}
        return {Fraction(count, total) for count in range(self.step, total + 1, self.step)}

    def shortened(self, share: Fraction) -> Self:
        """It with uniformly fewer frames: the middle one of each of as many equal stretches."""
        total = len(self.frames)
        count = max(int(share * total) // self.step, 1) * self.step
        if self.media == "image" or count >= total:
            return replace(self, chosen=None)
        return replace(self, chosen=tuple((2 * place + 1) * total // (2 * count) for place in range(count)))

    def units(self, side: int) -> int:
        """A side of the full size at the scale in use: rounded half up, at least 1."""
        return max(1, int(side * self.scale + HALF))

    def pixels(self) -> Tensor:
        """[T', C, H', W'], resampled (bicubic, antialiased) where the size is another one."""
        frames = self.frames if self.chosen is None else self.frames[list(self.chosen)]
        size = self._size()
        if size == tuple(frames.shape[-2:]):
            return frames
        small = torch.nn.functional.interpolate(frames.float(), size=size, mode="bicubic", antialias=True)
        return small.to(frames.dtype)

    @abstractmethod
    def _size(self) -> tuple[int, int]:
        """Height and width in pixels at the scale in use."""

    @staticmethod
    @abstractmethod
    def inputs(pictures: Sequence[Any]) -> dict[str, Tensor]:
        """What the family's encoder takes for all images, or all videos, of one prompt."""


@dataclass(frozen=True, eq=False)
class Qwen2VLPicture(Picture):
    """Any grid of 2 x 2 patches a token, and two frames a token: a smaller image is smaller in pixels."""

    unit: int = 28
    """Side of a token in pixels."""
    patch: int = 14
    pair: int = 2
    """Frames behind a token."""

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(length // self.unit for length in self.frames.shape[-2:])

    @property
    def step(self) -> int:
        return self.pair

    @property
    def grid(self) -> tuple[int, int, int]:
        """(time, height, width) in tokens."""
        rows, columns = (self.units(side) for side in self.sides)
        return self.length // self.pair, rows, columns

    @property
    def runs(self) -> list[int]:
        times, rows, columns = self.grid
        return [times * rows * columns]

    def _size(self) -> tuple[int, int]:
        _, rows, columns = self.grid
        return rows * self.unit, columns * self.unit

    @classmethod
    def of(cls, model: Any, media: Literal["image", "video"], patches: Tensor, grid: Sequence[int]) -> Self:
        """From patches [t * h * w, C * 2 * p * p], in the order of Qwen2VLImageProcessor, and (t, h, w) of them."""
        vision = model.config.vision_config
        merge, patch, pair = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size
        times, rows, columns = grid
        blocks = patches.view(times, rows // merge, columns // merge, merge, merge, -1, pair, patch, patch)
        frames = blocks.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
        frames = frames.reshape(times * pair, -1, rows * patch, columns * patch)
        return cls(media, frames, unit=merge * patch, patch=patch, pair=pair)

    def _patches(self) -> Tensor:
        frames, merge = self.pixels(), self.unit // self.patch
        times, rows, columns = self.grid
        blocks = frames.view(times, self.pair, -1, rows, merge, self.patch, columns, merge, self.patch)
        return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(times * rows * columns * merge**2, -1)

    @staticmethod
    def inputs(pictures: Sequence[Any]) -> dict[str, Tensor]:
        names = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
        pixels, grid = names[pictures[0].media]
        merge = pictures[0].unit // pictures[0].patch
        grids = [(times, rows * merge, columns * merge) for times, rows, columns in (each.grid for each in pictures)]
        return {pixels: torch.cat([each._patches() for each in pictures]), grid: torch.tensor(grids)}


@dataclass(frozen=True, eq=False)
class LlavaOneVisionPicture(Picture):
    """Tiles of one size, a video's frames too: what is smaller is each tile, in patches a side, with the layout of the
    tiles as it was. SigLIP's position embeddings are interpolated to the smaller size (`encoding`).
    """

    side: int = 27
    """Patches along a full tile."""
    original: tuple[int, int] = (0, 0)
    """Height and width in pixels of an image before it was laid out in tiles."""
    layout: tuple[int, int] | None = None
    """Rows and columns of tiles; None where an image is only shown whole, or is a video."""
    most: int = 9
    """The number in ``anyres_max_9``."""

    @property
    def sides(self) -> tuple[int, ...]:
        return (self.side,)

    @property
    def fixed(self) -> int:
        return 1 if self.layout is None else 0

    @property
    def runs(self) -> list[int]:
        side = self.units(self.side)
        if self.media == "video":
            return [self.length * (-(-side // 2)) ** 2 + 1]
        if self.layout is None:
            return [side**2 + 1]
        canvas = [side * count for count in self.layout]
        shown = extents.anyres(self.original, (0, 1), pinpoints=[canvas], tile=side, side=side, most=self.most)
        return [len(shown)]

    def _size(self) -> tuple[int, int]:
        height, width = self.frames.shape[-2:]
        side = self.units(self.side)
        return height * side // self.side, width * side // self.side

    @staticmethod
    def inputs(pictures: Sequence[Any]) -> dict[str, Tensor]:
        frames = [each.pixels() for each in pictures]
        if pictures[0].media == "video":
            return {"pixel_values_videos": torch.stack(frames)}
        most = max(map(len, frames))
        padded = [torch.nn.functional.pad(tiles, (0, 0, 0, 0, 0, 0, 0, most - len(tiles))) for tiles in frames]
        sizes = torch.tensor([each.original for each in pictures])
        # As Hugging Face's class has it: images of a prompt that has several of its own are shown whole.
        together = [1] * len(pictures) if pictures[0].layout is not None else [len(pictures)]
        return {"pixel_values": torch.stack(padded), "image_sizes": sizes, "batch_num_images": torch.tensor(together)}


@dataclass(frozen=True, eq=False)
class VilaPicture(Picture):
    """One image in the tower's own size, or the frames of a video, each of which is an image; a token is 2 x 2 patches.

    Smaller ones have fewer patches a side, for which SigLIP's position embeddings are interpolated (`encoding`).
    """

    side: int = 27
    """Patches along a full image."""

    @property
    def sides(self) -> tuple[int, ...]:
        return (self.side,)

    @property
    def runs(self) -> list[int]:
        return [math.ceil(self.units(self.side) / 2) ** 2] * self.length

    def _size(self) -> tuple[int, int]:
        height, width = self.frames.shape[-2:]
        side = self.units(self.side)
        return height * side // self.side, width * side // self.side

    @staticmethod
    def inputs(pictures: Sequence[Any]) -> dict[str, Tensor]:
        return {"pixel_values": torch.cat([each.pixels() for each in pictures])}
