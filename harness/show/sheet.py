"""All panels as one PNG."""

from __future__ import annotations

import io
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

from harness.show.draw import NOTHING, Drawing, Map, Row, colour_bar, compared, counted, model_name, notes, same, says
from harness.show.gather import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAINT, SAME, OTHER = "#555555", "#1a7431", "#b3541e"
"""Colours of small print, of an answer that is the one from all tokens, and of one that is not."""
DPI = 90
WIDE, NARROW = 3.9, 3.3
"""Inches across a panel of a video, and of an image."""
MORE = " …"
"""Where the rest of a text is left out."""
TALLEST = 5.0
"""Inches down a panel; a taller picture is drawn narrower."""
PAD, BAR, TITLE, ANSWER, LACKING = 0.3, 0.75, 0.28, 0.72, 0.9
"""Inches: between panels, for a colour bar, above a panel, below it, for a row without panels."""
LINE = 0.0185
"""Inches from line to line, for each point of a letter's size."""


def png(drawing: Drawing) -> bytes:
    """The whole as one PNG: the input with question and answer, then a row for each method."""
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the page shows every script; a figure's font not
        _Sheet(drawing).figure().savefig(sink, format="png", pil_kwargs={"optimize": True})
    return sink.getvalue()


class _Sheet:
    """Lays the panels out on a figure, in inches from its upper left corner."""

    def __init__(self, drawing: Drawing) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.drawing, self.gathered = drawing, drawing.gathered
        panel = drawing.input
        self.across = WIDE if len(self.gathered.pictures) > 1 else NARROW
        self.down = min(TALLEST, self.across * panel.shape[0] / panel.shape[1])
        self.drawn = self.down * panel.shape[1] / panel.shape[0]  # a panel's own width, `across` is its column's
        cuts = len(self.gathered.request.keeps)
        self.width = 2 * PAD + self.across + BAR + cuts * (self.across + PAD) - PAD
        self.row = TITLE + self.down + ANSWER
        self._figure = Figure(figsize=(self.width, 1), dpi=DPI)  # its height follows from the text, which it measures
        self._canvas = FigureCanvasAgg(self._figure)
        self._said = self._header_lines()
        self.head = max(self.down + TITLE, sum(_height(lines, size) for lines, size, _ in self._said)) + PAD
        rows = sum(self.row if row.map else LACKING for row in drawing.rows)
        self.height = 2 * PAD + self.head + rows
        self._figure.set_size_inches(self.width, self.height)

    def figure(self) -> Figure:
        self._header()
        y = PAD + self.head
        for row in self.drawing.rows:
            self._row(row, y)
            y += self.row if row.map else LACKING
        return self._figure

    def _header_lines(self) -> list[tuple[list[str], float, dict[str, Any]]]:
        """What stands beside the input: lines, the size of their letters, their style."""
        gathered, request = self.gathered, self.gathered.request
        room = self.width - self._beside - PAD
        asked = f"With all {gathered.n_visual} visual tokens {model_name(request.model)} answers:"
        found: list[tuple[str, float, dict[str, Any]]] = [
            (request.question, 13, {"weight": "bold"}),
            (asked, 10, {}),
            (gathered.answer or NOTHING, 13, {"weight": "bold", "color": SAME}),
            *((note, 9, {"color": FAINT}) for note in notes(self.drawing)),
        ]
        return [(self._lines(text, room, 4, size, **style), size, style) for text, size, style in found]

    @property
    def _beside(self) -> float:
        return PAD + self.across + BAR

    def _header(self) -> None:
        frames = len(self.gathered.pictures)
        self._text(PAD, PAD, "Input" if frames == 1 else f"Input: {frames} frames", weight="bold")
        self._picture(PAD, PAD + TITLE, self.drawing.input)
        y = PAD
        for lines, size, style in self._said:
            self._text(self._beside, y, "\n".join(lines), size, **style)
            y += _height(lines, size)

    def _row(self, row: Row, y: float) -> None:
        self._text(PAD, y, row.guide.title, weight="bold")
        if row.map is None:
            lines = self._lines(row.guide.lacking or "", self.width - 2 * PAD, 3, 9)
            self._text(PAD, y + 0.24, "\n".join(lines), size=9)
            return
        self._picture(PAD, y + TITLE, row.map.pixels)
        self._bar(PAD + self.drawn + 0.08, y + TITLE, row.map)
        self._text(PAD, y + TITLE + self.down + 0.06, row.map.scale, size=9, color=FAINT)
        for number, (cut, pixels) in enumerate(zip(row.guide.cuts, row.kept, strict=True)):
            x = self._beside + number * (self.across + PAD)
            colour = SAME if same(cut, self.gathered) else OTHER
            self._text(x, y, counted(cut, self.gathered))
            self._picture(x, y + TITLE, pixels)
            lines = self._lines(says(cut, self.gathered), self.across, 1)
            if lines[-1].endswith(MORE):
                lines = [*self._lines(cut.answer, self.across, 2), f"({compared(cut, self.gathered)})"]
            self._text(x, y + TITLE + self.down + 0.06, "\n".join(lines), color=colour)

    def _bar(self, x: float, y: float, drawn: Map) -> None:
        """Colours beside a map, from 0 up."""
        axes = self._axes(x, y, 0.12, self.down)
        axes.imshow(colour_bar(), aspect="auto", extent=(0, 1, 0, drawn.top))
        axes.set_xticks([])
        axes.yaxis.tick_right()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.tick_params(labelsize=8, length=2, pad=2)

    def _picture(self, x: float, y: float, pixels: Picture) -> None:
        axes = self._axes(x, y, self.drawn, self.down)
        axes.imshow(pixels, aspect="auto", interpolation="antialiased")
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_color("#5a5a5a")

    def _axes(self, x: float, y: float, width: float, height: float) -> Any:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self._figure.add_axes(box)

    def _lines(
        self, text: str, room: float, most: int, size: float = 10, weight: str = "normal", **_: Any
    ) -> list[str]:
        """Text broken into at most so many lines of `room` inches; the end of a longer one is left out."""
        from matplotlib.font_manager import FontProperties

        font = FontProperties(size=size, weight=weight)
        measure = self._canvas.get_renderer().get_text_width_height_descent
        text = " ".join(text.split())
        letters = int(room * 250 / size)
        while True:
            lines = textwrap.wrap(text, letters) or [""]
            if len(lines) > most:
                lines = [*lines[: most - 1], lines[most - 1][: letters - len(MORE)] + MORE]
            widest = max(measure(line, font, False)[0] for line in lines) / DPI
            if widest <= room or letters <= 8:
                return lines
            letters = max(8, min(letters - 1, int(letters * room / widest)))

    def _text(self, x: float, y: float, text: str, size: float = 10, **style: Any) -> None:
        place = (x / self.width, 1 - y / self.height)
        # A dollar sign is one: without parse_math, "$5 or $6" is taken for a formula.
        self._figure.text(*place, text, size=size, va="top", ha="left", parse_math=False, **style)


def _height(lines: list[str], size: float) -> float:
    """Inches down some lines and the space after them."""
    return len(lines) * size * LINE + 0.09
