"""Paints what was gathered: each panel as one array of pixels, and the words that go with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.show.gather import Cut, Gathered, Guide, Picture
from harness.show.place import Canvas, Floats

COLOURS = "inferno"
OPAQUE = (0.25, 0.85)
"""How much a map's colour covers of the grey picture, at its lowest and at its highest score."""
NOTHING = "(nothing)"
"""An empty answer."""
BEHIND = 70.0
"""The grey on which a map's colours are shown by themselves."""
SATURATED = 0.98
"""A map's colours end at the score that this share of the tokens does not exceed: one score is often far above all."""
GUTTER = 90
"""Grey between the frames of a video: neither the white of a masked token nor a frame's edge."""


@dataclass(frozen=True, eq=False)
class Map:
    """Scores over the pictures."""

    pixels: Picture
    top: float
    """Where the colours end, in multiples of the mean score."""
    highest: float
    """The highest score, in multiples of the mean."""

    @property
    def scale(self) -> str:
        """What its numbers are."""
        return f"score / mean score; the highest is {self.highest:.3g}×"


@dataclass(frozen=True, eq=False)
class Row:
    """One method's panels: the map, and for each of its cuts what is kept."""

    guide: Guide
    map: Map | None
    kept: tuple[Picture, ...]


@dataclass(frozen=True, eq=False)
class Drawing:
    """All panels of a request. A panel is one picture, or a video's frames in lines."""

    gathered: Gathered
    input: Picture
    rows: tuple[Row, ...]
    nowhere: int
    """Visual tokens that show no place."""
    several: bool
    """Whether some place is shown by several tokens."""


def draw(gathered: Gathered) -> Drawing:
    """Puts the tokens back on the pictures."""
    pictures = np.stack(gathered.pictures)
    canvas = Canvas(gathered.extents, *pictures.shape[:3])
    rows = []
    for guide in gathered.guides:
        found = None if guide.scores is None else heat(pictures, canvas, guide.scores)
        kept = tuple(montage(masked(pictures, canvas, cut.kept)) for cut in guide.cuts)
        rows.append(Row(guide, found, kept))
    return Drawing(gathered, montage(pictures), tuple(rows), canvas.nowhere, canvas.several)


def heat(pictures: NDArray[np.uint8], canvas: Canvas, scores: Floats) -> Map:
    """Scores [N_v] in colour over the pictures [T, H, W, 3] in grey; what no token shows stays grey."""
    mean = float(scores.mean())
    relative = scores / mean if mean > 0 else np.zeros_like(scores)
    highest = float(relative.max())
    top = float(np.quantile(relative, SATURATED)) or highest or 1.0
    grey = pictures @ np.array([0.299, 0.587, 0.114])
    values = canvas.mean(relative)
    shown = np.isfinite(values)[..., None]
    painted = np.where(shown, paint(np.nan_to_num(values) / top, grey), grey[..., None])
    return Map(montage(painted.round().astype(np.uint8)), top, highest)


def paint(shares: Floats, grey: Floats) -> Floats:
    """Colours [..., 3] in [0, 255] of scores (0 lowest, 1 highest, and all above it) over greys, both [...]."""
    from matplotlib import colormaps

    shares = shares.clip(0, 1)
    opaque = (OPAQUE[0] + (OPAQUE[1] - OPAQUE[0]) * shares)[..., None]
    return opaque * colormaps[COLOURS](shares)[..., :3] * 255 + (1 - opaque) * grey[..., None]


def masked(pictures: NDArray[np.uint8], canvas: Canvas, kept: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The pictures [T, H, W, 3] with what is not kept in white: half white where one of two tokens there is kept."""
    stays = np.zeros(len(canvas.extents))
    stays[kept] = 1.0
    share = np.nan_to_num(canvas.mean(stays))[..., None]
    return (pictures * share + 255 * (1 - share)).round().astype(np.uint8)


def montage(pictures: NDArray[np.uint8]) -> Picture:
    """Pictures [T, H, W, 3] as one: 4 to a line, 8 where there are more than 16, with a gutter between them."""
    count, height, width, _ = pictures.shape
    columns = min(count, 4 if count <= 16 else 8)
    lines = math.ceil(count / columns)
    gap = max(2, width // 32)
    whole = np.full((lines * (height + gap) - gap, columns * (width + gap) - gap, 3), GUTTER, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        whole[top : top + height, left : left + width] = picture
    return whole


def colour_bar() -> Picture:
    """[256, 1, 3]: a map's colours, the highest first."""
    shares = np.linspace(1, 0, 256)[:, None]
    return paint(shares, np.full_like(shares, BEHIND)).round().astype(np.uint8)


def same(cut: Cut, gathered: Gathered) -> bool:
    """Whether an answer from few tokens is, letter by letter, the one from all of them."""
    return cut.answer == gathered.answer


def compared(cut: Cut, gathered: Gathered) -> str:
    """How an answer from few tokens compares with the one from all: nobody said which answer is right."""
    return f"{'as' if same(cut, gathered) else 'not as'} with all tokens"


def says(cut: Cut, gathered: Gathered) -> str:
    """An answer from few tokens, beside the one from all."""
    return f"{cut.answer or NOTHING}  ({compared(cut, gathered)})"


def counted(cut: Cut, gathered: Gathered) -> str:
    """How many tokens a cut keeps."""
    return f"{share(cut.keep)} kept: {len(cut.kept)} of {gathered.n_visual} tokens"


def share(keep: float) -> str:
    """0.25 as 25%."""
    return f"{100 * keep:g}%"


def notes(drawing: Drawing) -> list[str]:
    """What a reader must know."""
    found = [
        "Maps: score of each visual token / mean score. The colours end at the score that "
        f"{share(1 - SATURATED)} of the tokens exceed.",
        "White was cut away between the vision encoder, which saw the whole input, and the language model: a kept "
        "token may know of what lies around it.",
    ]
    if drawing.several:
        found.append(
            "Some places are shown by several tokens (an image's tiles and the whole of it): a map has their mean, and "
            "a place is paler the fewer of them are kept."
        )
    if drawing.nowhere:
        found.append(
            "Not drawn, but scored and cut like the others: visual tokens that show no place (ends of lines and "
            f"videos), {drawing.nowhere} of {drawing.gathered.n_visual}."
        )
    return found


def model_name(model: str) -> str:
    """A model's name, or of a folder its last part."""
    return model.rstrip("/").rpartition("/")[2]
