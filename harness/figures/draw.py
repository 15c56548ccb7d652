"""Figure 3 as PNG and SVG, and its points as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from harness.disk import write_atomically
from harness.figures.image import as_files
from harness.figures.points import BASELINES, Point, pareto
from harness.tables.layout import APART

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE, DPI = 4.2, 90
"""Inches across and down a panel, and pixels an inch."""
PALETTES = (("tab10", 7), ("Dark2", 8))
"""Colour maps and how many of their colours are taken; tab10's eighth is grey."""
MARKERS = "os^Dv<>PXp*hd8"
FAINT = "#777777"
"""Colour of vanilla, of bounds, and of the front."""


def write(title: str, points: Sequence[Point], folder: Path, name: str) -> list[Path]:
    """Writes `<name>.png`, `.svg` and `.points.csv` into `folder`, each whole or not at all. Returns their paths.

    Raises StoreError when the disk refuses.
    """
    contents: dict[str, str | bytes] = {**as_files(_figure(title, points)), "points.csv": to_csv(points)}
    paths = []
    for suffix, content in contents.items():
        paths.append(folder / f"{name}.{suffix}")
        write_atomically(paths[-1], content)
    return paths


def to_csv(points: Sequence[Point]) -> str:
    """One line a point; `front` is 0 or 1, `below` names the baselines with spaces between them."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    names = [field.name for field in fields(Point)]
    writer.writerow(names)
    for point in points:
        values = {name: getattr(point, name) for name in names}
        values |= {"front": int(point.front), "below": " ".join(point.below)}
        writer.writerow([_plain(values[name]) for name in names])
    return sink.getvalue()


def _plain(value: object) -> object:
    return "" if value is None else round(value, 6) if isinstance(value, float) else value


def _figure(title: str, points: Sequence[Point]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(point.model for point in points))
    panels = list(dict.fromkeys(point.panel for point in points))
    size = (SIDE * len(panels) + 0.4, SIDE * len(models) + 1.6)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(models), len(panels), squeeze=False)
    styles = _styles(points)
    for line, model in zip(grid, models, strict=True):
        for axes, panel in zip(line, panels, strict=True):
            own = [point for point in points if (point.model, point.panel) == (model, panel)]
            axes.set_visible(bool(own))
            _panel(axes, own, styles)
            axes.set_title(f"{model}, {panel}", fontsize=9)
    named = [zip(*reversed(axes.get_legend_handles_labels()), strict=True) for axes in grid.flat]
    handles = {label: handle for pairs in named for label, handle in pairs}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    there = [name for name in BASELINES if any(point.method == name for point in points)]
    hollow = f"\nhollow: below {' or '.join(there)} at the same average retention" if there else ""
    figure.suptitle(f"{title}{hollow}", fontsize=10)
    return figure


def _styles(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each row's label."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = [to_hex(colormaps[name](number)) for name, count in PALETTES for number in range(count)]
    labels = list(dict.fromkeys(point.label for point in points if point.method not in APART))
    apart = {point.label: FAINT for point in points if point.method in APART}
    colours = {label: palette[place % len(palette)] for place, label in enumerate(labels)} | apart
    return {label: (colour, MARKERS[place % len(MARKERS)]) for place, (label, colour) in enumerate(colours.items())}


def _panel(axes: Axes, panel: Sequence[Point], styles: dict[str, tuple[str, str]]) -> None:
    for label in dict.fromkeys(point.label for point in panel):
        own = sorted((one for one in panel if one.label == label), key=lambda one: one.layer_mean)
        colour, marker = styles[label]
        axes.plot([100 * one.layer_mean for one in own], [one.preservation for one in own], color=colour, linewidth=0.9)
        for one in own:
            x = 100 * one.layer_mean
            if one.low is not None and one.high is not None:
                axes.plot([x, x], [one.low, one.high], color=colour, linewidth=0.7, alpha=0.6)
            face = "white" if one.below else colour
            axes.plot(x, one.preservation, marker=marker, markersize=6, color=colour, markerfacecolor=face, zorder=3)
        axes.plot([], [], color=colour, marker=marker, linewidth=0.9, label=label)  # the legend's, always filled
    front = pareto(one for one in panel if one.front)
    axes.step(
        [100 * one.layer_mean for one in front],
        [one.preservation for one in front],
        where="post",
        color=FAINT,
        linestyle=":",
        linewidth=1.4,
        label="Pareto front",
        zorder=1,
    )
    axes.set_xlim(0, 104)
    axes.set_xlabel("average retention: visual tokens, mean over the LLM's layers (%)", fontsize=8)
    axes.set_ylabel("average preservation (%)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", linewidth=0.5)
