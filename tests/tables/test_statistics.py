"""Preservation: a mean of ratios, and no number where none may be given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import Cell, preservation

NAMES = ["a", "b"]
VANILLA = {"a": Cell(50.0, 4, 4, "sa"), "b": Cell(2.0, 6, 6, "sb")}


def test_mean_of_ratios_not_ratio_of_means() -> None:
    row = {"a": Cell(25.0, 4, 4, "sa"), "b": Cell(2.0, 6, 6, "sb")}
    assert preservation(row, VANILLA, NAMES) == pytest.approx(75.0)


def test_vanilla_is_100() -> None:
    assert preservation(VANILLA, VANILLA, NAMES) == 100.0


@pytest.mark.parametrize(
    "cell",
    [
        Cell(None, 4, 4, "sa"),
        Cell(25.0, 3, 4, "sa"),
        Cell(25.0, 4, 4, "other samples"),
        Cell(25.0, 3, 3, "sa"),
    ],
    ids=["no score", "incomplete", "other samples", "fewer samples"],
)
def test_no_number_between_different_sample_sets(cell: Cell) -> None:
    row = {**VANILLA, "a": cell}
    assert preservation(row, VANILLA, NAMES) is None
    assert preservation(VANILLA, row, NAMES) is None


def test_missing_benchmark_and_zero_vanilla() -> None:
    assert preservation({"a": VANILLA["a"]}, VANILLA, NAMES) is None
    assert preservation(VANILLA, {"a": VANILLA["a"]}, NAMES) is None
    assert preservation(VANILLA, {**VANILLA, "a": Cell(0.0, 4, 4, "sa")}, NAMES) is None
    assert preservation({}, {}, []) is None


def test_a_score_of_zero_counts() -> None:
    assert preservation({**VANILLA, "a": Cell(0.0, 4, 4, "sa")}, VANILLA, NAMES) == pytest.approx(50.0)


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=6), st.floats(0.01, 3))
def test_scaling_every_score_scales_the_average(scores: list[float], factor: float) -> None:
    names = [str(i) for i in range(len(scores))]
    vanilla = {name: Cell(score) for name, score in zip(names, scores, strict=True)}
    row = {name: Cell(score * factor) for name, score in zip(names, scores, strict=True)}
    assert preservation(row, vanilla, names) == pytest.approx(100 * factor)
