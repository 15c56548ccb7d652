"""Procedural scenes: what is shown, how it is drawn, and which scenes may be trained on.

A scene is a grid of cells over a few segments of time. A cell is exactly one visual token of the micro models (28 x 28
pixels: patch 14, merge 2) and a segment is exactly one temporal patch (two sampled frames), so that "the visual tokens
a question is about" is known without error. An image is a scene of one segment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

CELL = 28
"""Pixels along a side of a cell: one visual token of Qwen2-VL (patch 14, merge 2)."""
SEGMENTS = 4
"""Segments of a video; each is one temporal patch of two sampled frames when 8 frames are sampled."""
VIDEO_SIDE = 6
"""Cells along a side of a video frame: 4 x 6 x 6 = 144 visual tokens a video."""
IMAGE_SIDE = 12
"""Cells along a side of an image: 144 visual tokens an image."""
FRAMES_PER_SEGMENT = 8
FPS = 8

KINDS = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart", "arrow", "moon", "bar", "clover")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "green": (30, 175, 50),
    "blue": (45, 70, 240),
    "yellow": (240, 225, 40),
    "white": (245, 245, 245),
    "purple": (150, 40, 190),
    "orange": (250, 135, 20),
    "cyan": (40, 215, 225),
}
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}

HELD_OUT = 8
"""One scene in HELD_OUT, chosen by the digest of its content, is never trained on."""


@dataclass(frozen=True)
class Sight:
    """One object in one segment: kind, colour and cell."""

    segment: int
    row: int
    col: int
    kind: str
    color: str


@dataclass(frozen=True)
class Thing:
    """One object over time: its sights, in order of time, and what it does ('stays', 'moves', 'changes')."""

    kind: str
    behaviour: str
    sights: tuple[Sight, ...]


@dataclass(frozen=True)
class Scene:
    """Things on a grid of `side` x `side` cells over `segments` segments. Every kind is shown at most once."""

    side: int
    segments: int
    things: tuple[Thing, ...]

    @property
    def sights(self) -> list[Sight]:
        return [sight for thing in self.things for sight in thing.sights]

    @property
    def digest(self) -> str:
        """SHA-256 of what the scene shows, whatever the order of things, the background or the noise."""
        shown = sorted((s.segment, s.row, s.col, s.kind, s.color) for s in self.sights)
        return hashlib.sha256(f"{self.side},{self.segments},{shown}".encode()).hexdigest()

    @property
    def held_out(self) -> bool:
        """Whether the scene belongs to the benchmarks. Decided by its content, so no scene can be in both splits."""
        return int(self.digest[:8], 16) % HELD_OUT == 0


def sample_scene(rng: np.random.Generator, *, video: bool, held_out: bool, apart: bool = False) -> Scene:
    """A random scene of the split asked for (rejection on the content digest).

    Args:
        apart: leaves at least one empty cell between any two things.
    """
    while True:
        scene = _draw(rng, VIDEO_SIDE if video else IMAGE_SIDE, SEGMENTS if video else 1, apart)
        if scene.held_out == held_out:
            return scene


def _draw(rng: np.random.Generator, side: int, segments: int, apart: bool) -> Scene:
    taken: set[tuple[int, int, int]] = set()
    things = []
    count = int(rng.integers(7, 11))
    kinds = rng.permutation(len(KINDS))[:count]
    for number, kind_index in enumerate(kinds):
        if segments == 1:
            behaviour = "stays"
        elif number < 2:
            behaviour = "moves"
        elif number < 4:
            behaviour = "changes"
        else:
            behaviour = "stays"
        thing = _place(rng, KINDS[int(kind_index)], behaviour, side, segments, taken)
        if thing is not None:
            things.append(thing)
            margin = range(-1, 2) if apart else range(1)
            taken.update((s.segment, s.row + i, s.col + j) for s in thing.sights for i in margin for j in margin)
    return Scene(side, segments, tuple(things))


def _place(
    rng: np.random.Generator, kind: str, behaviour: str, side: int, segments: int, taken: set[tuple[int, int, int]]
) -> Thing | None:
    """The thing at a free place, or None if ten tries found none."""
    colors = list(COLORS)
    for _ in range(10):
        row, col = (int(v) for v in rng.integers(0, side, size=2))
        first = colors[int(rng.integers(len(colors)))]
        if behaviour == "stays":
            length = 2 if segments > 1 and rng.random() < 0.25 else 1
            start = int(rng.integers(0, segments - length + 1))
            sights = tuple(Sight(start + i, row, col, kind, first) for i in range(length))
        else:
            start = int(rng.integers(0, segments - 1))
            second, row2, col2 = first, row, col
            if behaviour == "changes":
                second = colors[(colors.index(first) + int(rng.integers(1, len(colors)))) % len(colors)]
            else:
                dy, dx = list(DIRECTIONS.values())[int(rng.integers(4))]
                step = int(rng.integers(2, 4))
                row2, col2 = row + dy * step, col + dx * step
                if not (0 <= row2 < side and 0 <= col2 < side):
                    continue
            sights = (Sight(start, row, col, kind, first), Sight(start + 1, row2, col2, kind, second))
        if not any((s.segment, s.row, s.col) in taken for s in sights):
            return Thing(kind, behaviour, sights)
    return None


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One picture a segment: uint8 [segments, side * CELL, side * CELL, 3], on a dark, faintly uneven background."""
    pixels = scene.side * CELL
    background = rng.integers(8, 48, size=3) + rng.integers(-6, 7, size=(scene.segments, scene.side, scene.side, 3))
    frames = background.clip(0, 255).astype(np.uint8).repeat(CELL, axis=1).repeat(CELL, axis=2)
    assert frames.shape == (scene.segments, pixels, pixels, 3)
    for sight in scene.sights:
        shape = _masks(sight.kind)[int(rng.integers(_JITTERS))]
        top, left = sight.row * CELL, sight.col * CELL
        patch = frames[sight.segment, top : top + CELL, left : left + CELL]
        ink = np.asarray(COLORS[sight.color], dtype=np.float32)
        patch[:] = (patch * (1 - shape) + ink * shape).astype(np.uint8)
    return frames


_JITTERS = 9


@cache
def _masks(kind: str) -> tuple[NDArray[np.float32], ...]:
    """Anti-aliased masks of a kind, float32 [CELL, CELL, 1] in [0, 1]: three sizes by three small offsets."""
    fine = 4 * CELL
    masks = []
    for size in (0.80, 0.87, 0.94):
        for shift in (-0.06, 0.0, 0.06):
            axis = ((np.arange(fine) + 0.5) / fine * 2 - 1 - shift * (1 - size) * 8) / size
            y, x = np.meshgrid(axis, axis, indexing="ij")
            inside = _inside(kind, x, y).astype(np.float32)
            masks.append(inside.reshape(CELL, 4, CELL, 4).mean(axis=(1, 3))[..., None])
    return tuple(masks)


def _inside(kind: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points of the square [-1, 1]^2 (y downwards) belong to the shape."""
    radius = np.hypot(x, y)
    if kind == "circle":
        return radius < 0.9
    if kind == "square":
        return (abs(x) < 0.8) & (abs(y) < 0.8)
    if kind == "triangle":
        return (y < 0.8) & (y > -0.9 + 1.9 * abs(x))
    if kind == "star":
        angle = np.arctan2(x, -y)
        return radius < 0.42 + 0.55 * (0.5 + 0.5 * np.cos(5 * angle)) ** 2
    if kind == "cross":
        return ((abs(x - y) < 0.38) | (abs(x + y) < 0.38)) & (abs(x) < 0.85) & (abs(y) < 0.85)
    if kind == "diamond":
        return abs(x) * 1.4 + abs(y) < 0.95
    if kind == "ring":
        return (radius < 0.92) & (radius > 0.5)
    if kind == "heart":
        lobes = np.hypot(abs(x) - 0.42, y + 0.35) < 0.48
        return lobes | ((y > -0.35) & (abs(x) * 1.15 + y * 0.98 < 0.68) & (y < 0.9))
    if kind == "arrow":
        return ((abs(y) < 0.25) & (x > -0.9) & (x < 0.2)) | ((x >= 0.1) & (abs(y) < 0.9 - x) & (x < 0.9))
    if kind == "moon":
        return (radius < 0.92) & (np.hypot(x - 0.45, y + 0.1) > 0.72)
    if kind == "bar":
        return (abs(x) < 0.28) & (abs(y) < 0.95)
    if kind == "clover":
        return (np.hypot(abs(x) - 0.5, abs(y) - 0.5)) < 0.32
    raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
