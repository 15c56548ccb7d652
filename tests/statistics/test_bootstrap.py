"""The resampling, against scipy's and against variances that are known in closed form."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from harness.statistics import Cell, bootstrap
from harness.statistics.bootstrap import Ratio, difference, interval, ratios, student
from tests.statistics.made import answers, cell

GENERATOR = np.random.default_rng(7)
# More resamples than a table takes, so that only the method can differ from scipy's.
MANY = 20_000


def _one(row: Cell, base: Cell) -> Ratio:
    return ratios([{"a": base}, {"a": row}], [0, 0])[1]["a"]


def _percentile(scores: np.ndarray, freedom: int) -> tuple[float, float]:
    """scipy's percentile interval at the levels that our degrees of freedom ask for."""
    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, freedom)) - 1
    vanilla, row = scores.T
    found = stats.bootstrap(
        (row, vanilla),
        lambda x, y, axis: 100 * x.sum(axis) / y.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=MANY,
        confidence_level=level,
        method="percentile",
        rng=3,
    )
    return found.confidence_interval.low, found.confidence_interval.high


def test_one_sample_a_cluster_is_scipys_paired_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", MANY)
    scores = answers(GENERATOR, 1, [1] * 300, (0.9, 0.6))[0]
    found = interval([_one(cell(scores[:, 1]), cell(scores[:, 0]))])
    low, high = _percentile(scores, 299)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))


def test_clusters_are_drawn_whole_as_scipy_draws_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", MANY)
    scores = answers(GENERATOR, 1, [4] * 200, (0.9, 0.6), shared=0.8)[0]
    clusters = [f"video {number // 4}" for number in range(800)]
    found = interval([_one(cell(scores[:, 1], clusters=clusters), cell(scores[:, 0], clusters=clusters))])
    low, high = _percentile(scores.reshape(200, 4, 2).sum(1), 199)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))
    alone = interval([_one(cell(scores[:, 1]), cell(scores[:, 0]))])
    assert high - low > 1.2 * (alone.high - alone.low), "samples of one video do not count as independent"


def test_the_variance_of_a_mean_is_unbiased_also_within_strata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", MANY)
    sizes = [3, 5, 12]
    strata = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    values = GENERATOR.random(20) + np.repeat([0, 5, 50], sizes)
    base = cell([1.0] * 20, strata=strata)  # a constant: the ratio is the score, but for a factor
    draws = _one(cell(values, strata=strata), base).draws * 3  # 100 * (three strata's means) / 300
    known = sum(values[np.array(strata) == name].var(ddof=1) / size for name, size in zip("012", sizes, strict=True))
    assert draws.var() == pytest.approx(100**2 * known, rel=0.04)


def test_levels_follow_students_t() -> None:
    for freedom in (5, 9, 20, 49.5, 1000):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def test_an_average_has_the_spread_of_independent_benchmarks() -> None:
    parts = []
    for name in "abcd":
        scores = answers(GENERATOR, 1, [2] * 50, (0.9, 0.5))[0]
        clusters = [f"{name} {number // 2}" for number in range(100)]
        parts.append(_one(cell(scores[:, 1], clusters=clusters), cell(scores[:, 0], clusters=clusters)))
    alone = np.array([part.draws.var() for part in parts])
    together = np.mean([part.draws for part in parts], axis=0).var()
    assert together == pytest.approx(alone.sum() / 16, rel=0.15)
    found = interval(parts)
    assert found.holds(float(np.mean([part.value for part in parts])))
    # Satterthwaite, and Student's t by scipy.
    freedom = alone.sum() ** 2 / (alone**2 / 49).sum()
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * together**0.5, rel=0.06)


def test_benchmarks_over_the_same_videos_meet_the_same_draws() -> None:
    scores = answers(GENERATOR, 1, [1] * 60, (0.9, 0.5))[0]
    first = _one(cell(scores[:, 1]), cell(scores[:, 0]))
    second = _one(cell(scores[:, 1], samples="other questions"), cell(scores[:, 0], samples="other questions"))
    assert np.array_equal(first.draws, second.draws)


def test_what_all_rows_share_cancels_in_a_difference() -> None:
    hard = answers(GENERATOR, 1, [1] * 200, (0.5,))[0][:, 0]
    base, row = cell(np.ones(200)), cell(hard)
    slightly = hard.copy()
    slightly[np.flatnonzero(hard)[:3]] = 0
    one, other = _one(row, base), _one(cell(slightly), base)
    paired = difference([one], [other])
    assert paired is not None and paired.low >= 0
    assert paired.high - paired.low < 0.3 * (interval([one]).high - interval([one]).low)
    same = difference([one], [one])
    assert same is not None and (same.low, same.high) == (0, 0)


def test_nothing_between_different_samples() -> None:
    scores = answers(GENERATOR, 1, [1] * 50, (0.9, 0.5))[0]
    base, row = cell(scores[:, 0]), cell(scores[:, 1])
    elsewhere = replace(row, samples="others")
    assert ratios([{"a": base}, {"a": elsewhere}], [0, 0])[1] == {}
    assert ratios([{"a": base}, {"a": replace(row, n=49)}], [0, 0])[1] == {}
    assert ratios([{"a": base}, {"a": row}], [0, None])[1] == {}
    there = _one(elsewhere, replace(base, samples="others"))
    assert difference([_one(row, base)], [there]) is None


def test_too_few_clusters_or_a_base_of_nothing_say_nothing() -> None:
    few = [str(number % 9) for number in range(90)]
    assert ratios([{"a": cell([1.0] * 90, clusters=few)}], [0])[0] == {}
    lone = ["odd", *["even"] * 29]
    assert ratios([{"a": cell([1.0] * 30, strata=lone)}], [0])[0] == {}, "a stratum of one cluster has no spread"
    once = [1.0, *[0.0] * 29]
    assert ratios([{"a": cell(once)}], [0])[0] == {}, "some resamples have no right answer at all"
    unknown = Cell(50.0, 10, 10, "s")
    assert ratios([{"a": unknown}], [0])[0] == {}


def test_seeds_are_averaged_and_their_own_differences_widen() -> None:
    base = cell(np.ones(100))
    lucky = answers(GENERATOR, 1, [1] * 100, (0.5, 0.5, 0.5), shared=0.0)[0].T
    mean = _one(cell(*lucky), base)
    assert mean.value == pytest.approx(100 * lucky.mean())
    assert mean.draws.std() == pytest.approx(_one(cell(lucky.mean(0)), base).draws.std(), rel=0.15)
    # Seeds that differ in all samples at once: by 20, 50 and 80 points, whichever sample is drawn.
    rows = [np.repeat([1.0, 0.0], [share, 100 - share]) for share in (20, 50, 80)]
    apart = _one(cell(*(GENERATOR.permutation(row) for row in rows)), base)
    assert apart.draws.var() == pytest.approx(30**2 / 3, rel=0.15)


def test_a_table_gets_the_same_interval_again_and_quickly() -> None:
    scores = {str(name): answers(GENERATOR, 1, [2] * 150, [0.9] + [0.5] * 59)[0] for name in range(10)}
    clusters = {name: [f"{name} {number // 2}" for number in range(300)] for name in scores}
    rows = [
        {name: cell(table[:, row], clusters=clusters[name], samples=name) for name, table in scores.items()}
        for row in range(60)
    ]
    start = time.process_time()
    first = ratios(rows, [0] * 60)
    seconds = time.process_time() - start
    again = ratios(rows, [0] * 60)
    assert interval(list(first[1].values())) == interval(list(again[1].values()))
    assert seconds < 3, f"60 rows of 10 benchmarks took {seconds:.1f} s"
