"""Measurements as a figure: where the time to the first token goes, and the speed-up beside the one by FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.disk import write_atomically
from harness.figures.image import as_files
from harness.tables.rows import ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = (("vision", "vision encoder", "#b8c4d6"), ("scoring", "scoring", "#d9822b"), ("prefill", "prefill", "#2b6cb0"))
"""Parts of the time to the first token, from left to right, and their colours."""
GAIN, LOSS, IDEAL = "#1a7431", "#b3261e", "#555555"
"""Colours of a speed-up, of a loss, and of what FLOPs promise."""
WIDTH, BAR, HEAD = 13.0, 0.24, 1.35
"""Inches: across the figure, down a row, and of a measurement's title and axis."""
DPI = 90


def draw(entries: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """Writes the figure beside `path`, as .png and .svg, each whole or not at all. Returns their paths."""
    paths = []
    for suffix, content in as_files(_figure(entries)).items():
        paths.append(path.with_suffix(f".{suffix}"))
        write_atomically(paths[-1], content)
    return paths


def _figure(entries: Sequence[Mapping[str, Any]]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from harness.efficiency.report import hardware, title

    measured = [[each for each in entry["variants"] if "lacking" not in each] for entry in entries]
    heights = [HEAD + BAR * len(variants) for variants in measured]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subfigures(len(entries), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, entry, variants in zip(grid, entries, measured, strict=True):
        part.suptitle(f"{title(entry)}\n{hardware(entry)}", fontsize=9, x=0.01, ha="left")
        times, speed = part.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        _times(times, variants)
        _speed(speed, variants)
        times.set_yticks(range(len(variants)), [_named(each) for each in variants], fontsize=8)
        times.set_ylim(len(variants) - 0.4, -0.6)
    return figure


def _named(variant: Mapping[str, Any]) -> str:
    kept = "" if variant["keep"] == 1 else f" {ratio(variant['keep'])}"
    return f"{variant['label']}{kept}, {variant['attention']}"


def _times(axes: Axes, variants: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(variants))
    left = [0.0] * len(variants)
    for key, label, colour in PARTS:
        long = [1000 * each["seconds"][key] for each in variants]
        axes.barh(places, long, left=left, height=0.7, color=colour, label=label)
        left = [a + b for a, b in zip(left, long, strict=True)]
    axes.axvline(left[0], color=IDEAL, linewidth=0.8, linestyle=":")
    axes.set_xlabel("ms to the first token (dotted: vanilla)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(fontsize=7, loc="lower right")


def _speed(axes: Axes, variants: Sequence[Mapping[str, Any]]) -> None:
    for place, each in enumerate(variants):
        found = each["vanilla_over_this"]["llm"]
        colour = LOSS if found["median"] < 1 else GAIN
        axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(found["median"], place, marker="o", markersize=5, color=colour)
        if each["flops_ratio"] is not None:
            axes.plot(each["flops_ratio"], place, marker="|", markersize=9, markeredgewidth=1.5, color=IDEAL)
    axes.axvline(1, color=IDEAL, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.set_xlabel("scoring and prefill, times faster than vanilla (| by FLOPs; red: slower)", fontsize=8)
    axes.tick_params(axis="both", which="both", labelsize=8)
