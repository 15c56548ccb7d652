"""Which rows of a table really differ: paired differences with their intervals, McNemar's test, and what is noise.

A difference is noise when the 95% interval of the paired difference in preservation holds 0. Tests are not corrected
for their number: of 20 pairs that do not differ, one is expected to look as if it did.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import TYPE_CHECKING, Any

from harness.statistics import Cell, Interval, comparable, hard, preservation

if TYPE_CHECKING:
    from harness.statistics.bootstrap import Ratio


@dataclass(frozen=True)
class Pair:
    """Two rows of a table, by their places in it, compared over the benchmarks of one of its averages, by its place.

    difference: preservation of `one` less that of `other`, in points; interval: of that difference, None where the
        clusters are too few or unknown. noise: whether it holds 0.
    only_one, only_other: samples that only this row answered right, over the benchmarks `tested`: those whose answers
        are right or wrong. p: of McNemar's test on these, None where there is nothing to test. The test takes samples
        as independent: where `clusters` (videos or images) are fewer than `samples`, the interval is to be believed.
    """

    one: int
    other: int
    group: int
    difference: float
    interval: Interval | None
    noise: bool | None
    only_one: int
    only_other: int
    p: float | None
    tested: tuple[str, ...]
    samples: int
    clusters: int


@dataclass(frozen=True)
class Measured:
    """By row and group the interval of the average, and whether the row's difference from the best of its peers is
    noise (None: nothing to compare it with); every pair of rows that can be compared; and by row the samples that
    matter.
    """

    intervals: tuple[tuple[Interval | None, ...], ...]
    noise: tuple[tuple[bool | None, ...], ...]
    pairs: tuple[Pair, ...]
    matter: tuple[hard.HardRow, ...]


def measure(
    rows: Sequence[Mapping[str, Cell]],
    vanilla: Sequence[int | None],
    peers: Sequence[Hashable | None],
    groups: Sequence[Sequence[str]],
    smaller: Sequence[int | None] | None = None,
) -> Measured:
    """Intervals, noise, pairs and samples that matter of a table.

    rows: benchmark -> cell. vanilla: for each row the place of its base in `rows`, None where it has none. peers: rows
    of equal peers compete with each other; None competes with nobody. groups: the benchmarks of each average. smaller:
    for each row the place of the downsample row of its budget, None where it has none.
    """
    from harness.statistics.bootstrap import interval, ratios

    found = ratios(rows, vanilla)
    values = [
        [None if base is None else preservation(row, rows[base], group) for group in groups]
        for row, base in zip(rows, vanilla, strict=True)
    ]
    # What a base preserves of itself is 100 by definition.
    intervals = tuple(
        tuple(interval(parts) if base != place and (parts := _parts(found[place], group)) else None for group in groups)
        for place, base in enumerate(vanilla)
    )
    pairs = tuple(pair for number, group in enumerate(groups) for pair in _pairs(rows, found, values, number, group))
    by_places = {(pair.one, pair.other, pair.group): pair for pair in pairs}
    noise: list[list[bool | None]] = [[None] * len(groups) for _ in rows]
    for number in range(len(groups)):
        for members in _competing(peers, [row[number] for row in values]):
            best = max(members, key=lambda place: values[place][number] or 0.0)
            for place in members:
                pair = by_places.get((min(place, best), max(place, best), number))
                noise[place][number] = pair.noise if pair else None
            if any(noise[place][number] is not None for place in members):
                noise[best][number] = False
    matter = hard.measure_hard(rows, vanilla, smaller or [None] * len(rows), groups)
    return Measured(intervals, tuple(tuple(row) for row in noise), pairs, matter)


def mcnemar(one: int, other: int) -> float:
    """Two-sided mid-p of McNemar's exact test for `one` and `other` discordant samples.

    Twice the smaller tail of Binomial(one + other, 1/2), with half the weight of what was seen (Fagerland, Lydersen and
    Laake 2013, "The McNemar test for binary matched-pairs data"); 1 where nothing is discordant.
    """
    n, k = one + other, min(one, other)

    def chance(count: int) -> float:
        return exp(lgamma(n + 1) - lgamma(count + 1) - lgamma(n - count + 1) - n * log(2))

    return min(1.0, 2 * sum(chance(count) for count in range(k)) + chance(k))


def to_json(measured: Measured) -> dict[str, Any]:
    """`measured` as JSON can hold it; `from_json` reads it back."""
    return {
        "intervals": [[_ends(found) for found in row] for row in measured.intervals],
        "noise": measured.noise,
        "pairs": [{**vars(pair), "interval": _ends(pair.interval)} for pair in measured.pairs],
        "hard": [hard.to_json(row) for row in measured.matter],
    }


def from_json(content: Mapping[str, Any]) -> Measured:
    """What `to_json` wrote. Raises KeyError or TypeError for anything else."""
    return Measured(
        tuple(tuple(_interval(ends) for ends in row) for row in content["intervals"]),
        tuple(tuple(row) for row in content["noise"]),
        tuple(
            Pair(**{**pair, "interval": _interval(pair["interval"]), "tested": tuple(pair["tested"])})
            for pair in content["pairs"]
        ),
        tuple(hard.from_json(row) for row in content["hard"]),
    )


def _pairs(
    rows: Sequence[Mapping[str, Cell]],
    found: Sequence[Mapping[str, Ratio]],
    values: Sequence[Sequence[float | None]],
    number: int,
    group: Sequence[str],
) -> list[Pair]:
    """The pairs of one group: rows with a value over the same samples."""
    from harness.statistics.bootstrap import difference

    discordant = {name: _discordant([row.get(name) for row in rows]) for name in group}
    pairs = []
    for one in range(len(rows)):
        for other in range(one + 1, len(rows)):
            mine, theirs = values[one][number], values[other][number]
            if mine is None or theirs is None:
                continue
            if not all(comparable(rows[one][name], rows[other][name]) for name in group):
                continue
            parts = _parts(found[one], group), _parts(found[other], group)
            ends = difference(*parts) if all(parts) else None
            tested = tuple(name for name in group if discordant[name][one][other] is not None)
            counts = (
                [discordant[name][one][other] for name in tested],
                [discordant[name][other][one] for name in tested],
            )
            only_one, only_other = (sum(count or 0 for count in side) for side in counts)
            runs = [rows[one][name].runs for name in group if rows[one][name].runs]
            pairs.append(
                Pair(
                    one,
                    other,
                    number,
                    mine - theirs,
                    ends,
                    None if ends is None else ends.holds(0.0),
                    only_one,
                    only_other,
                    mcnemar(only_one, only_other) if tested else None,
                    tested,
                    sum(rows[one][name].total for name in group),
                    sum(len(set(run[0].clusters)) for run in runs),
                )
            )
    return pairs


def _discordant(cells: Sequence[Cell | None]) -> list[list[int | None]]:
    """[one][other]: samples that only `one` answered right; None where an answer of either is more than right or wrong,
    where a score is the mean of several seeds, or where the samples are not the same.
    """
    import numpy as np

    counts: list[list[int | None]] = [[None] * len(cells) for _ in cells]
    by_samples: dict[Any, list[int]] = {}
    for place, cell in enumerate(cells):
        if cell is not None and cell.complete and len(cell.runs) == 1 and set(cell.runs[0].right) <= {0.0, 1.0}:
            by_samples.setdefault((cell.samples, len(cell.runs[0].right)), []).append(place)
    for places in by_samples.values():
        right = np.array([cells[place].runs[0].right for place in places])  # type: ignore[union-attr]
        only = np.rint(right @ (1 - right).T).astype(int).tolist()
        for one, line in zip(places, only, strict=True):
            for other, count in zip(places, line, strict=True):
                counts[one][other] = count
    return counts


def _parts(found: Mapping[str, Ratio], group: Sequence[str]) -> list[Ratio]:
    """The ratios of a group's benchmarks; [] unless every one is known."""
    return [found[name] for name in group] if group and all(name in found for name in group) else []


def _competing(peers: Sequence[Hashable | None], values: Sequence[float | None]) -> list[list[int]]:
    """Places of the rows that compete with each other and have a value; at least two each."""
    members: dict[Hashable, list[int]] = {}
    for place, (peer, value) in enumerate(zip(peers, values, strict=True)):
        if peer is not None and value is not None:
            members.setdefault(peer, []).append(place)
    return [places for places in members.values() if len(places) > 1]


def _ends(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.low, found.high]


def _interval(ends: Sequence[float] | None) -> Interval | None:
    return None if ends is None else Interval(*ends)
