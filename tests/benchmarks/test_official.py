"""Exact match, means by group, and answers read back from result files of the kit's own runner."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.benchmarks.official import answers_of, exact_match, grouped
from model_wrappers.errors import UserError


@pytest.mark.parametrize(
    ("reply", "reference"),
    [("yes", "yes"), ("Yes.", "yes"), (" RED ", "red"), ("the cat", "cat"), ("A dog", "a dog"), ("on  it", "on it")]
    + [("=1+1", "=1+1"), ("007", "007"), ("None", "none"), ("N/A", "n/a"), ('"two"', "two"), ("a", "a"), ("-1", "-1")],
)
def test_the_same_answer(reply: str, reference: str) -> None:
    assert exact_match(reply, [reference])
    assert exact_match(reply, ["something else", reference])


@pytest.mark.parametrize(
    ("reply", "reference"),
    [("", "yes"), ("", ""), (".", "."), ("7", "007"), ("yes it is", "yes"), ("cats", "cat"), ("1", "-1")],
)
def test_another_answer(reply: str, reference: str) -> None:
    assert not exact_match(reply, [reference])


def test_means_by_group() -> None:
    scores = {1: 1.0, 2: 0.0, 3: 0.5}
    groups = {1: ["a", "x"], 2: ["a", "a"], 3: ["b"], 4: ["c"]}
    assert grouped(scores, groups, 100.0) == {"overall": 50.0, "a": 50.0, "x": 100.0, "b": 50.0}
    assert grouped({}, groups, 100.0) == {}


@pytest.mark.parametrize("suffix", ["xlsx", "tsv"])
def test_answers_come_back_as_they_were(suffix: str, tmp_path: Path) -> None:
    replies = ["None", "N/A", "007", "", "a\ttab"]
    path = _written(tmp_path / f"results.{suffix}", replies)
    assert answers_of(path, range(5)) == dict(enumerate(replies))
    with pytest.raises(UserError, match="no row for index 5"):
        answers_of(path, range(6))


def test_a_failed_sample_is_no_answer(tmp_path: Path) -> None:
    path = _written(tmp_path / "results.tsv", ["yes", "Failed to obtain answer: RuntimeError"])
    with pytest.raises(UserError, match="index 1 failed"):
        answers_of(path, range(2))
    with pytest.raises(UserError, match=r"must end in \.xlsx or \.tsv"):
        answers_of(str(tmp_path / "results.json"), range(2))


def _written(path: Path, replies: list[str]) -> str:
    table = pd.DataFrame({"index": range(len(replies)), "prediction": replies})
    if path.suffix == ".xlsx":
        table.to_excel(path, index=False, engine="xlsxwriter")
    else:
        table.to_csv(path, sep="\t", index=False)
    return str(path)
