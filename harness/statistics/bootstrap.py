"""How sure a preservation is: a paired, stratified bootstrap of the clusters that a benchmark's samples come in.

Samples about one video or image stand or fall together, so whole clusters are drawn, with replacement. Every row of a
table, vanilla among them, meets the same drawn clusters: what makes a sample easy for all of them cancels. Clusters are
drawn within each stratum of the score (MME's categories); a cluster in two strata is drawn in each by itself. Two
benchmarks over exactly the same clusters meet the same draws, too.

Of n clusters n - 1 are drawn, which makes the variance of a mean unbiased (Rao and Wu 1988, "Resampling inference with
complex survey data", with m = n - 1). The interval is the percentile interval at the normal levels of Student's t
(Hesterberg 2015, "What teachers should know about the bootstrap", the expanded percentile), its degrees of freedom by
Satterthwaite over the benchmarks. tests/statistics/test_coverage.py measures how often it holds the truth.

A score that is the mean of several seeds is the mean over seeds in each resample; `_over_seeds` says what is added.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.statistics import FEWEST, RESAMPLES, Cell, Interval, Samples, comparable

LEVEL = 0.95
CHUNK = 4_000_000
"""Numbers of one block of weights: 32 MB, however many clusters a benchmark has."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """One row's preservation on one benchmark, in percent: as it is, and in each resample.

    draws: [RESAMPLES]. freedom: degrees of freedom of their variance (clusters less strata). samples: names the set of
    samples that it was measured on; ratios of different sets are never compared.
    """

    value: float
    draws: Floats
    freedom: int
    samples: str


def ratios(rows: Sequence[Mapping[str, Cell]], vanilla: Sequence[int | None]) -> list[dict[str, Ratio]]:
    """By row and benchmark, the ratio to the row's vanilla, where both are complete, over the same samples, and known
    sample by sample.

    rows: benchmark -> cell. vanilla: for each row the place of its base in `rows`, None where it has none. A benchmark
    whose base scores 0 in a resample has no ratio.
    """
    found: list[dict[str, Ratio]] = [{} for _ in rows]
    for benchmark in dict.fromkeys(name for row in rows for name in row):
        scores = _scores([row.get(benchmark) for row in rows])
        for place, base in enumerate(vanilla):
            if base is None or scores[place] is None or scores[base] is None:
                continue
            ours, theirs = rows[place][benchmark], rows[base][benchmark]
            if not comparable(ours, theirs) or ours.score is None or not theirs.score:
                continue
            (own, freedom), (of_base, _) = scores[place], scores[base]  # type: ignore[misc]
            if (of_base != 0).all():
                value = 100 * ours.score / theirs.score
                found[place][benchmark] = Ratio(value, 100 * own / of_base, freedom, ours.samples)
    return found


def interval(parts: Sequence[Ratio]) -> Interval:
    """The 95% interval of the mean of `parts`: one row's ratios on the benchmarks of one average."""
    return _interval(np.array([part.draws for part in parts]), [part.freedom for part in parts])


def ratio_of_sums(totals: Mapping[str, Sequence[float]]) -> Ratio:
    """Sum / sum over clusters, in percent, from the two addends of each of at least two clusters."""
    names = sorted(totals)
    sums = np.array([totals[name] for name in names], dtype=float)
    drawn = _draw(np.random.default_rng(_seed(names)), sums)
    value = 100 * float(sums[:, 0].sum() / sums[:, 1].sum())
    return Ratio(value, 100 * drawn[:, 0] / drawn[:, 1], len(names) - 1, "")


def difference(one: Sequence[Ratio], other: Sequence[Ratio]) -> Interval | None:
    """The 95% interval of the mean of `one` less that of `other`, benchmark by benchmark in the same resamples.

    None where a benchmark's samples are not the same in both.
    """
    if [part.samples for part in one] != [part.samples for part in other]:
        return None
    draws = np.array([a.draws - b.draws for a, b in zip(one, other, strict=True)])
    return _interval(draws, [part.freedom for part in one])


def student(freedom: float) -> float:
    """The quantile of Student's t that leaves (1 - LEVEL) / 2 above it (Abramowitz and Stegun 26.7.5; to 0.1% from 5
    degrees of freedom).
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def _interval(draws: Floats, freedom: Sequence[int]) -> Interval:
    """Of the mean over the first axis of `draws` [benchmarks, RESAMPLES]."""
    variances = draws.var(axis=1)
    total = float(variances.sum())
    if total == 0:
        level = (1 - LEVEL) / 2
    else:
        level = NormalDist().cdf(-student(total**2 / float((variances**2 / np.array(freedom)).sum())))
    low, high = np.quantile(draws.mean(axis=0), [level, 1 - level])
    return Interval(float(low), float(high))


def _scores(cells: Sequence[Cell | None]) -> list[tuple[Floats, int] | None]:
    """Of each cell the score in each resample, and the degrees of freedom; None where too little is known."""
    by_design: dict[Any, list[int]] = {}
    for place, cell in enumerate(cells):
        if cell is not None and cell.complete and cell.runs:
            first = cell.runs[0]
            by_design.setdefault((cell.samples, first.clusters, first.strata, first.scale), []).append(place)
    found: list[tuple[Floats, int] | None] = [None] * len(cells)
    for places in by_design.values():
        runs = [cells[place].runs for place in places]  # type: ignore[union-attr]
        resampled = _resample([run for own in runs for run in own])
        if resampled is None:
            continue
        scores, freedom = resampled
        column = 0
        for place, own in zip(places, runs, strict=True):
            draws = scores[:, column : column + len(own)]
            column += len(own)
            found[place] = (_over_seeds(draws, [run.score() for run in own]), freedom)
    return found


def _resample(runs: Sequence[Samples]) -> tuple[Floats, int] | None:
    """Scores [RESAMPLES, runs] of runs over the same samples, and the degrees of freedom; None for few clusters."""
    design = runs[0]
    pieces = sorted(set(zip(design.strata, design.clusters, strict=True)))
    place = {piece: number for number, piece in enumerate(pieces)}
    of_sample = np.array([place[piece] for piece in zip(design.strata, design.clusters, strict=True)])
    # One more column than runs: how many samples each piece has.
    totals = np.stack(
        [np.bincount(of_sample, weights=run.contributions, minlength=len(pieces)) for run in runs]
        + [np.bincount(of_sample, minlength=len(pieces)).astype(float)],
        axis=1,
    )
    strata = np.array([stratum for stratum, _ in pieces])
    names = list(dict.fromkeys(strata.tolist()))
    freedom = len(pieces) - len(names)
    if freedom < FEWEST - 1 or any((strata == name).sum() < 2 for name in names):
        return None
    generator = np.random.default_rng(_seed(pieces))
    scores = np.zeros((RESAMPLES, len(runs)))
    for name in names:
        drawn = _draw(generator, totals[strata == name])
        scores += design.scale * drawn[:, :-1] / drawn[:, -1:]
    return scores, freedom


def _draw(generator: np.random.Generator, totals: Floats) -> Floats:
    """Sums [RESAMPLES, columns] of all but one as many rows of `totals` [n, columns] as there are, drawn with
    replacement.
    """
    n = len(totals)
    size = max(1, CHUNK // n)
    sums = []
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n - 1)) + n * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums.append(weights.astype(float) @ totals)
    return np.concatenate(sums)


def _over_seeds(draws: Floats, scores: Sequence[float]) -> Floats:
    """Resampled scores [RESAMPLES, seeds] and the scores as they are, as the mean over seeds in each resample.

    Where a seed chooses anew for each sample, its luck is part of how samples differ and is in `draws` already. What
    the seeds' scores differ by beyond that is drawn here: seeds - 1 of them, the same in every benchmark.
    """
    seeds = len(scores)
    if seeds == 1:
        return draws[:, 0]
    mean = draws.mean(axis=1)
    between = float(np.var(scores, ddof=1))
    if between == 0:
        return mean
    by_luck = float((draws - mean[:, None]).var(axis=0).sum()) / (seeds - 1)
    beyond = sqrt(max(0.0, 1 - by_luck / between))
    drawn = np.random.default_rng(_seed(seeds)).integers(seeds, size=(RESAMPLES, seeds - 1))
    return mean + beyond * (np.array(scores) - np.mean(scores))[drawn].mean(axis=1)


def _seed(content: Any) -> int:
    """A seed made from what is drawn: the same table gets the same interval everywhere."""
    return int.from_bytes(hashlib.sha256(json.dumps(content).encode()).digest()[:8], "big")
