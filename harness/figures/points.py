"""Points of Figure 3: a row's average preservation over its average retention, the mean over the LLM's layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from harness.plan import Plan
from harness.store import Store, digest
from harness.tables.layout import APART
from harness.tables.rows import RowResult, Table

BASELINES = ("random", "downsample")
"""What costs nothing to think of: a method below one of these at the same average retention is marked."""

SAME = 1e-9
"""Average retentions nearer than this are one: they are means of the same counts."""


@dataclass(frozen=True)
class Point:
    """One row of one panel.

    model, panel: which panel; panel is the header of the benchmarks' average. label: the method's name for readers.
    retention: asked for. layer_mean: average retention, in [0, 1]. preservation, low, high: percent; the ends of the
    95% interval are None where it is unknown. front: whether no other point of the panel preserves as much with as few
    tokens; bounds, which know where the answer is, stand apart. below: the baselines that preserve more at the same
    average retention.
    """

    model: str
    panel: str
    method: str
    label: str
    retention: float
    layer_mean: float
    preservation: float
    low: float | None = None
    high: float | None = None
    front: bool = False
    below: tuple[str, ...] = ()


LayerMeans = Mapping[tuple[str, str, str, float], Mapping[str, float]]
"""(model, method, digest of its fields, keep) -> benchmark -> mean over its samples of the average retention."""


def layer_means(plan: Plan, store: Store) -> LayerMeans:
    """From the answers that the store holds."""
    found: dict[tuple[str, str, str, float], dict[str, float]] = {}
    for _, row, keep, cells in plan.rows():
        for cell in cells:
            answers = store.cell(cell.settings).read().values()
            shares = [fmean(one.by_layer) / one.visual for one in answers if one.visual and one.by_layer]
            if shares:
                key = (cell.settings["model"]["name"], row.method, digest(dict(row.fields)), keep)
                found.setdefault(key, {})[cell.benchmark] = fmean(shares)
    return found


def points(table: Table, means: LayerMeans) -> list[Point]:
    """Every row with an average, panel by panel; a row without (not run, not defined, incomplete) has no point."""
    found: list[Point] = []
    for model in dict.fromkeys(row.model for row in table.rows):
        for place, group in enumerate(table.groups):
            panel = []
            for row in (row for row in table.rows if row.model == model):
                average, share = row.averages[place], _share(row, group.benchmarks, means)
                if average.value is not None and share is not None:
                    ends = average.interval
                    at = (row.label, row.retention, share, average.value)
                    interval = (ends.low, ends.high) if ends else (None, None)
                    panel.append(Point(model, group.header, row.method, *at, *interval))
            found += _judged(panel)
    return found


def pareto(panel: Iterable[Point]) -> list[Point]:
    """The points that no other one beats: as much or more preserved with as few tokens or fewer."""
    front: list[Point] = []
    for point in sorted(panel, key=lambda one: (one.layer_mean, -one.preservation)):
        if not front or point.preservation > front[-1].preservation:
            front.append(point)
    return front


def at(curve: Sequence[Point], share: float) -> float | None:
    """What a method preserves at an average retention, between its points on straight lines; None outside of them."""
    ordered = sorted(curve, key=lambda one: one.layer_mean)
    for a, b in pairwise(ordered):
        if a.layer_mean - SAME <= share <= b.layer_mean + SAME:
            part = (share - a.layer_mean) / (b.layer_mean - a.layer_mean) if b.layer_mean > a.layer_mean else 1.0
            return a.preservation + part * (b.preservation - a.preservation)
    return None


def _judged(panel: list[Point]) -> list[Point]:
    """The same points with the front, and what is below a baseline, marked."""
    judged = [point for point in panel if point.method == "vanilla" or point.method not in APART]
    front = pareto(judged)
    vanilla = [point for point in panel if point.method == "vanilla"]
    curves = {name: [point for point in panel if point.method == name] for name in BASELINES}
    marked = []
    for point in panel:
        below = []
        for name, curve in curves.items():
            if curve and point in judged and point.method not in (name, "vanilla"):
                level = at([*curve, *vanilla], point.layer_mean)
                if level is not None and point.preservation < level:
                    below.append(name)
        marked.append(replace(point, front=any(point is one for one in front), below=tuple(below)))
    return marked


def _share(row: RowResult, benchmarks: Sequence[str], means: LayerMeans) -> float | None:
    """Average retention of a row over benchmarks, each counted alike, and over its seeds."""
    shares = []
    for one in row.seeds or (row,):
        of_row = means.get((one.model, one.method, digest(dict(one.fields)), one.retention), {})
        if any(name not in of_row for name in benchmarks):
            return None
        shares += [of_row[name] for name in benchmarks]
    return fmean(shares)
