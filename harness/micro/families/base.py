"""What training must know of an architecture: how its prompts read, how its visual tokens lie, how it is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.evidence import SHARE, overlap
from harness.micro.prompts import PromptFormat
from harness.micro.scenes import SEGMENTS, Scene, Sight

FRAMES, LONGER = 8, 24
"""Frames sampled of a video, usually and in Table 6: two a segment, and six."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The visual part of a prompt.

    Attributes:
        grid: (T, H, W), the scene's own cells.
        pieces: what stands there in order: a text, or a number of visual tokens.
        pad: the placeholder of a visual token; "" where it is no token of the vocabulary.
        extents: [N_v, 6] float, as `VisualPrompt.extents`.
        places: [N_v, 3] long, M-RoPE offsets of the visual tokens; None where positions just count on.
    """

    grid: tuple[int, int, int]
    pieces: tuple[str | int, ...]
    pad: str
    extents: Tensor
    places: Tensor | None = None

    @property
    def count(self) -> int:
        """N_v."""
        return self.extents.shape[0]

    @cached_property
    def _overlaps(self) -> Tensor:
        t, h, w = self.grid
        cells = [[i, j, k] for i in range(t) for j in range(h) for k in range(w)]
        return overlap(self.grid, cells, self.extents)

    def _row(self, sight: Sight) -> Tensor:
        return self._overlaps[(sight.segment * self.grid[1] + sight.row) * self.grid[2] + sight.col]

    def shows(self, sight: Sight) -> list[int]:
        """The visual tokens that show a sight at all: its evidence."""
        return (self._row(sight) >= SHARE).nonzero().flatten().tolist()

    def best(self, sight: Sight) -> list[int]:
        """Those that show it most."""
        row = self._row(sight)
        return (row >= row.max() - 1e-3).nonzero().flatten().tolist()


class Family(ABC):
    """One architecture. `head` and `tail` surround a user's turn in its chat template."""

    name: ClassVar[str]
    head: ClassVar[str]
    tail: ClassVar[str]
    video: ClassVar[dict[str, PromptFormat]]
    """How each video benchmark asks."""
    longer: ClassVar[dict[str, PromptFormat]]
    """The same of LONGER frames."""
    image: ClassVar[dict[str, PromptFormat]]
    """How each kind of image benchmark asks: MCQ, Y/N, VQA."""
    bare: ClassVar[PromptFormat]
    """A video and a question without any instruction."""
    few: ClassVar[bool] = False
    """An image has so few visual tokens, always, that things next to each other would share one."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """The family's tokenizer, learnt from its prompts."""

    @abstractmethod
    def new_model(self, tokenizer: Any, seed: int) -> Any:
        """The model to be trained."""

    @abstractmethod
    def processor(self, tokenizer: Any) -> Any:
        """The processor that is saved with it."""

    @abstractmethod
    def layout(self, *, video: bool, side: int, larger: bool = False) -> Layout:
        """Of a scene of `side` x `side` cells.

        Args:
            larger: as Tables 5 and 6 show it: LONGER frames, an image of more pixels.
        """

    @abstractmethod
    def encode(
        self, model: Any, pixels: Tensor, *, video: bool, noise: torch.Generator | None, larger: bool = False
    ) -> Tensor:
        """Visual tokens float [B, N_v, d] of pictures uint8 [B, segments, H, W, 3], with gradients.

        Args:
            noise: if given, pixels are disturbed a little, as a video codec does.
            larger: as in `layout`.
        """

    @abstractmethod
    def load(self, folder: Path) -> tuple[Any, Any]:
        """A saved model in float32, and its processor."""

    @abstractmethod
    def inputs(
        self, processor: Any, scene: Scene, pictures: Tensor, text: str, form: PromptFormat, *, larger: bool = False
    ) -> Any:
        """What the processor makes of a prompt about a scene; pictures uint8 [segments, H, W, 3]."""

    def form(self, name: str, *, larger: bool = False) -> PromptFormat:
        """How the benchmark, or kind of image benchmark, asks."""
        return {**(self.longer if larger else self.video), **self.image}[name]


def disturbed(x: Tensor, noise: torch.Generator | None) -> Tensor:
    """Pictures [B, n, 3, H, W] in [0, 1] with a codec's coarse colour and a little Gaussian noise, anew in each."""
    if noise is None:
        return x
    gray = x.mean(2, keepdim=True)
    tint = torch.nn.functional.avg_pool2d((x - gray).flatten(0, 1), 2)
    tint = torch.nn.functional.interpolate(tint, scale_factor=2).view_as(x)
    share = torch.rand(x.shape[0], 1, 1, 1, 1, generator=noise)
    x = gray + share * tint + (1 - share) * (x - gray)
    return x + 0.03 * torch.randn(x.shape, generator=noise)


@cache
def cells(rows: int, columns: int) -> Tensor:
    """[rows * columns, 4] float: (y0, y1, x0, x1) of a grid's cells, row by row, in fractions."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten().float(), x.flatten().float()
    return torch.stack([y / rows, (y + 1) / rows, x / columns, (x + 1) / columns], dim=1)


def over_time(places: Tensor, steps: int) -> Tensor:
    """[steps * n, 6] from the places [n, 4] of one step: the same in each of `steps` equal stretches of time."""
    times = [torch.tensor([i / steps, (i + 1) / steps]).expand(len(places), 2) for i in range(steps)]
    return torch.cat([torch.cat([time, places], dim=1) for time in times])


def resized(pixels: Tensor, side: int) -> Tensor:
    """Pictures uint8 [B, n, H, W, 3] at `side` x `side` pixels, bicubic with antialiasing, as the processors do it."""
    x = pixels.flatten(0, 1).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 255).round()
    return x.to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, pixels.shape[:2])


def segment_of(frames: int) -> Tensor:
    """[frames] long: the segment that each of `frames` evenly sampled frames shows."""
    return torch.arange(frames) * SEGMENTS // frames
