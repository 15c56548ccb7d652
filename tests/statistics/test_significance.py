"""Which rows differ: McNemar's test against statsmodels, pairs and noise on tables whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as theirs

from harness.statistics import Cell
from harness.statistics.significance import Measured, from_json, mcnemar, measure, to_json
from tests.statistics.made import answers, cell


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (0, 5), (5, 5), (3, 9), (10, 2), (40, 61), (700, 650)])
def test_mcnemar_is_the_exact_test_less_half_of_what_was_seen(one: int, other: int) -> None:
    exact = theirs([[5, one], [other, 7]], exact=True).pvalue
    seen = stats.binom.pmf(min(one, other), one + other, 0.5)
    # With as many on both sides statsmodels says 1, where twice the tail would count the middle twice.
    assert mcnemar(one, other) == pytest.approx(1.0 if one == other else exact - seen, rel=1e-9)
    assert mcnemar(one, other) == mcnemar(other, one)


def _table() -> list[dict[str, Cell]]:
    """Vanilla; a row far below; two rows that differ by nothing but luck, on two benchmarks of 100 videos."""
    generator = np.random.default_rng(8)
    rows: list[dict[str, Cell]] = [{} for _ in range(4)]
    for name in ("a", "b"):
        right = answers(generator, 1, [2] * 100, (0.9, 0.4, 0.7, 0.7))[0].T
        clusters = [f"{name} {number // 2}" for number in range(200)]
        for row, values in zip(rows, right, strict=True):
            row[name] = cell(values, clusters=clusters, samples=name)
    return rows


def _measure(rows: list[dict[str, Cell]], peers: list[str | None] | None = None) -> Measured:
    return measure(rows, [0] * len(rows), peers or [None, "at 0.5", "at 0.5", "at 0.5"], [("a", "b"), ("b",)])


def test_pairs_hold_the_difference_its_interval_and_the_discordant_answers() -> None:
    rows = _table()
    found = _measure(rows)
    assert [(pair.one, pair.other, pair.group) for pair in found.pairs] == [
        (one, other, group) for group in (0, 1) for one in range(4) for other in range(one + 1, 4)
    ]
    pair = next(pair for pair in found.pairs if (pair.one, pair.other, pair.group) == (1, 2, 0))
    expected = [100 * (rows[1][n].score - rows[2][n].score) / rows[0][n].score for n in "ab"]  # type: ignore[operator]
    assert pair.difference == pytest.approx(np.mean(expected))
    assert pair.interval is not None and pair.interval.holds(pair.difference) and pair.noise is False
    one, other = (np.array([v for n in "ab" for v in rows[row][n].runs[0].right]) for row in (1, 2))
    assert (pair.only_one, pair.only_other) == (((one > other).sum()), (other > one).sum())
    assert pair.p == mcnemar(pair.only_one, pair.only_other) and pair.p < 1e-6
    assert (pair.tested, pair.samples, pair.clusters) == (("a", "b"), 400, 200)
    equal = next(pair for pair in found.pairs if (pair.one, pair.other, pair.group) == (2, 3, 0))
    assert equal.noise is True and equal.p is not None and equal.p > 0.05


def test_noise_is_what_cannot_be_told_from_the_best_of_its_peers() -> None:
    found = _measure(_table())
    best = max((2, 3), key=lambda row: sum(c.score or 0 for c in _table()[row].values()))
    assert found.noise[0] == (None, None), "vanilla competes with nobody"
    assert found.noise[1][0] is False and found.noise[best][0] is False and found.noise[5 - best][0] is True
    alone = _measure(_table(), [None, "at 0.5", "at 0.25", None])
    assert alone.noise == ((None, None),) * 4


def test_vanilla_has_no_interval_and_others_have_one_around_their_value() -> None:
    found = _measure(_table())
    assert found.intervals[0] == (None, None)
    assert all(ends is not None and ends.low < ends.high for row in found.intervals[1:] for ends in row)


def test_rows_over_other_samples_are_no_pair() -> None:
    rows = _table()
    rows[3] = {**rows[3], "a": replace(rows[3]["a"], samples="others")}
    found = _measure(rows)
    assert {(pair.one, pair.other) for pair in found.pairs if pair.group == 0} == {(0, 1), (0, 2), (1, 2)}
    assert found.intervals[3][0] is None and found.intervals[3][1] is not None
    assert found.noise[3][0] is None


def test_partial_credit_and_means_of_seeds_are_not_tested() -> None:
    rows = _table()
    half = rows[1]["a"].runs[0]
    rows[1]["a"] = replace(rows[1]["a"], runs=(replace(half, right=(0.5, *half.right[1:])),))
    rows[2]["b"] = replace(rows[2]["b"], runs=rows[2]["b"].runs * 3)
    by_places = {(pair.one, pair.other, pair.group): pair for pair in _measure(rows).pairs}
    assert by_places[0, 1, 0].tested == ("b",)
    assert by_places[0, 2, 0].tested == ("a",)
    assert by_places[1, 2, 0].tested == () and by_places[1, 2, 0].p is None
    assert by_places[0, 2, 1].interval is not None


def test_cells_without_their_samples_are_paired_without_interval() -> None:
    rows = [{n: Cell(c.score, c.n, c.total, c.samples) for n, c in row.items()} for row in _table()]
    found = _measure(rows)
    assert all(ends == (None, None) for ends in found.intervals)
    assert all(pair.interval is None and pair.noise is None and pair.p is None for pair in found.pairs)
    assert all(noise is None for row in found.noise[:1] for noise in row)


def test_json_gives_back_what_it_was_given() -> None:
    found = _measure(_table())
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
