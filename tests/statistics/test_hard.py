"""The samples that matter, by hand: which they are, what a row preserves on them, and when there is nothing to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.statistics import Cell
from harness.statistics.hard import Hard, from_json, measure_hard, to_json
from tests.statistics.made import cell

#          sample:  0  1  2  3  4  5
VANILLA = [1, 1, 1, 1, 0, 1]
SMALLER = [1, 0, 0, 0, 0, 1]  # 1, 2 and 3 matter
METHOD = [0, 1, 1, 0, 1, 1]


def rows(**changes: Cell) -> list[dict[str, Cell]]:
    made = {"vanilla": cell(VANILLA), "smaller": cell(SMALLER), "method": cell(METHOD)} | changes
    return [{"A": made[name]} for name in ("vanilla", "smaller", "method")]


def measured(given: list[dict[str, Cell]], groups: list[list[str]] | None = None) -> list[Hard | None]:
    found = measure_hard(given, [0, 0, 0], [None, None, 1], groups or [["A"]])
    assert [row.groups[0] for row in found[:2]] == [None, None], "rows without a downsample row of their budget"
    return [found[2].benchmarks.get("A"), found[2].groups[0]]


def test_share_right_of_those_that_matter() -> None:
    assert measured(rows()) == [Hard(pytest.approx(200 / 3), 3)] * 2


def test_a_row_of_several_seeds_is_their_mean() -> None:
    assert measured(rows(method=cell(METHOD, [0] * 6)))[0] == Hard(pytest.approx(100 / 3), 3)


def test_of_several_seeds_of_downsample_every_one_must_be_wrong() -> None:
    assert measured(rows(smaller=cell(SMALLER, [0, 1, 0, 0, 0, 0])))[0] == Hard(pytest.approx(50.0), 2)


def test_nothing_matters_where_downsample_is_right() -> None:
    assert measured(rows(smaller=cell(VANILLA))) == [Hard(None, 0)] * 2


@pytest.mark.parametrize("name", ["vanilla", "smaller", "method"])
@pytest.mark.parametrize(
    "change",
    [
        lambda given: cell([0.5, *VANILLA[1:]]),
        lambda given: replace(given, runs=()),
        lambda given: replace(given, score=None, n=5),
        lambda given: replace(given, samples="others"),
    ],
    ids=["graded", "no samples", "incomplete", "other samples"],
)
def test_nothing_is_said_without_right_and_wrong_on_the_same_samples(name: str, change: object) -> None:
    made = dict(zip(("vanilla", "smaller", "method"), (row["A"] for row in rows()), strict=True))
    assert measured(rows(**{name: change(made[name])})) == [None, None]  # type: ignore[operator]


def test_a_group_is_all_its_samples_together_without_what_is_graded() -> None:
    given = rows()
    for row, right in zip(given, ([1, 1], [0, 1], [1, 0]), strict=True):
        row["B"] = cell(right, samples="B")
        row["C"] = cell([0.5, 1], samples="C")
    (*_, method) = measure_hard(given, [0, 0, 0], [None, None, 1], [["A", "B", "C"], ["C"]])
    assert method.benchmarks == {"A": Hard(pytest.approx(200 / 3), 3), "B": Hard(100.0, 1)}
    assert method.groups == (Hard(pytest.approx(75.0), 4), None)
    del given[2]["B"]
    (*_, method) = measure_hard(given, [0, 0, 0], [None, None, 1], [["A", "B", "C"]])
    assert method.groups == (None,), "a row that was not run on one of them has no number beside those that were"


def test_interval_draws_whole_clusters() -> None:
    """200 samples that all matter: in pairs about one video they say as much as half as many."""
    right = [float(number % 4 < 2) for number in range(200)]

    def width(clusters: list[str]) -> float:
        made = [
            {"A": cell([1] * 200, clusters=clusters)},
            {"A": cell([0] * 200, clusters=clusters)},
            {"A": cell(right, clusters=clusters)},
        ]
        found = measure_hard(made, [0, 0, 0], [None, None, 1], [["A"]])[2].groups[0]
        assert found is not None and found.interval is not None and found.interval.holds(50.0)
        return found.interval.high - found.interval.low

    alone, pairs = width([str(n) for n in range(200)]), width([str(n // 2) for n in range(200)])
    # 1.96 * sqrt(p (1 - p) / n) on each side.
    assert alone == pytest.approx(2 * 1.97 * 50 / 200**0.5, rel=0.1)
    assert pairs == pytest.approx(2 * 1.98 * 50 / 100**0.5, rel=0.1)


def test_json_round_trip() -> None:
    clusters = [str(number) for number in range(20)]
    given = [{"A": cell(values, clusters=clusters)} for values in ([1] * 20, [0] * 20, [1, 0] * 10)]
    for row in measure_hard(given, [0, 0, 0], [None, None, 1], [["A"], ["A", "B"]]):
        assert from_json(to_json(row)) == row
