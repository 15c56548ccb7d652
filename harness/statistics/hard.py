"""The samples that matter: those that a smaller image of the same budget gets wrong and vanilla gets right.

Most questions of most benchmarks can be answered from a smaller image, so they hardly test compression; what is left is
the filter of VTC-Bench (arXiv 2510.07143). Vanilla answers all of these samples right, so the share that a method
answers right is its preservation on them. Where answers are graded, or a score is no mean over samples, nothing is
right or wrong, and there is no such number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.statistics import FEWEST, Cell, Interval, comparable


@dataclass(frozen=True)
class Hard:
    """Preservation on the samples that matter, in percent (None where there is none), their number, and its 95%
    interval: over their videos or images, the samples as given; None where these are too few.
    """

    value: float | None
    n: int
    interval: Interval | None = None


@dataclass(frozen=True)
class HardRow:
    """One row: by benchmark, and by group over all samples of its benchmarks together; None where unknown."""

    benchmarks: Mapping[str, Hard]
    groups: tuple[Hard | None, ...]


def measure_hard(
    rows: Sequence[Mapping[str, Cell]],
    vanilla: Sequence[int | None],
    smaller: Sequence[int | None],
    groups: Sequence[Sequence[str]],
) -> tuple[HardRow, ...]:
    """Of each row (benchmark -> cell), by the places of its vanilla and of its downsample row, None where it has none.

    A group has a number where the row has one on every benchmark on which vanilla and downsample are right or wrong.
    """
    found = []
    for row, base, small in zip(rows, vanilla, smaller, strict=True):
        if base is None or small is None:
            found.append(HardRow({}, (None,) * len(groups)))
            continue
        parts = {name: _part(row.get(name), rows[base].get(name), rows[small].get(name)) for name in rows[small]}
        known = {name: part for name, part in parts.items() if part is not None}
        filtered = {name for name in rows[small] if _filter(rows[base].get(name), rows[small].get(name)) is not None}
        of_groups = []
        for group in groups:
            names = [name for name in group if name in filtered]
            whole = bool(names) and all(name in known for name in names)
            of_groups.append(_measured([pair for name in names for pair in known[name]], True) if whole else None)
        found.append(HardRow({name: _measured(part, False) for name, part in known.items()}, tuple(of_groups)))
    return tuple(found)


def to_json(row: HardRow) -> dict[str, Any]:
    """`row` as JSON can hold it; `from_json` reads it back."""

    def plain(found: Hard | None) -> Any:
        ends = found and found.interval
        return None if found is None else [found.value, found.n, *([ends.low, ends.high] if ends else [])]

    return {
        "benchmarks": {name: plain(found) for name, found in row.benchmarks.items()},
        "groups": [plain(found) for found in row.groups],
    }


def from_json(content: Mapping[str, Any]) -> HardRow:
    """What `to_json` wrote."""

    def made(plain: Sequence[Any]) -> Hard:
        value, n, *ends = plain
        return Hard(value, n, Interval(*ends) if ends else None)

    return HardRow(
        {name: made(plain) for name, plain in content["benchmarks"].items()},
        tuple(None if plain is None else made(plain) for plain in content["groups"]),
    )


def _right(cell: Cell | None) -> tuple[float, ...] | None:
    """How often each answer is right over the seeds; None where an answer is more than right or wrong."""
    if cell is None or not cell.complete or not cell.runs:
        return None
    if any(not set(run.right) <= {0.0, 1.0} for run in cell.runs):
        return None
    return tuple(sum(values) / len(values) for values in zip(*(run.right for run in cell.runs), strict=True))


def _filter(base: Cell | None, small: Cell | None) -> list[int] | None:
    """Places of the samples that matter."""
    full, less = _right(base), _right(small)
    if full is None or less is None or not comparable(base, small):
        return None
    return [place for place, (one, other) in enumerate(zip(full, less, strict=True)) if one == 1 and other == 0]


def _part(cell: Cell | None, base: Cell | None, small: Cell | None) -> list[tuple[str, float]] | None:
    """Of each sample that matters its cluster, and how right it is."""
    places, right = _filter(base, small), _right(cell)
    if places is None or right is None or cell is None or not comparable(cell, base):
        return None
    return [(cell.runs[0].clusters[place], right[place]) for place in places]


def _measured(samples: Sequence[tuple[str, float]], with_interval: bool) -> Hard:
    n = len(samples)
    if not n:
        return Hard(None, 0)
    return Hard(100 * sum(right for _, right in samples) / n, n, _interval(samples) if with_interval else None)


def _interval(samples: Sequence[tuple[str, float]]) -> Interval | None:
    """Of the share, whole clusters drawn, as in `harness.statistics.bootstrap`."""
    from harness.statistics import bootstrap

    totals: dict[str, list[float]] = {}
    for cluster, right in samples:
        of_cluster = totals.setdefault(cluster, [0.0, 0.0])
        of_cluster[0] += right
        of_cluster[1] += 1
    if len(totals) < FEWEST:
        return None
    return bootstrap.interval([bootstrap.ratio_of_sums(totals)])
