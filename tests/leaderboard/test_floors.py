"""Entries below random or below downsample are marked, in every file."""

from __future__ import annotations

import csv
import io
from typing import Any

from harness.leaderboard.entry import Entry
from harness.leaderboard.floors import marked
from harness.leaderboard.notes import notes
from harness.leaderboard.write import to_csv, to_html, to_markdown
from tests.leaderboard.boards import board, entry


def below(entries: list[Entry], scope: Any = "all") -> list[list[str]]:
    return [each.preservation[scope].below for each in marked(entries, board(*entries).benchmarks)]


def test_floors_of_the_same_model_and_retention_count() -> None:
    others = [entry("n", "random", value=99), entry(method="downsample", keep=0.5, value=99)]
    entries = [entry(value=49), entry(method="random", value=50), entry(method="downsample", value=40), *others]
    assert below(entries) == [["random"], [], ["random"], [], []]
    assert below([entry(value=30), *entries[1:]])[0] == ["random", "downsample"]
    assert below([entry(value=50), *entries[1:]])[0] == below([entry(value=None), *entries[1:]])[0] == []


def test_several_of_one_floor_are_their_mean_and_bounds_are_apart() -> None:
    drawn = [entry(method="random", value=value, fields={"seed": value}) for value in (40, 60)]
    assert below([*drawn, entry(value=49), entry(value=51), entry(method="anti-oracle", value=0)])[2:] == [
        ["random"],
        [],
        [],
    ]


def test_only_over_the_same_benchmarks_of_a_scope() -> None:
    """Both were asked on the video; the image benchmark has no floor."""
    entries = [entry(value=10), entry(method="random", value=50, scores={"MMBench-Video": 1.0})]
    assert (below(entries)[0], below(entries, "video")[0]) == ([], ["random"])


def test_the_marks_stand_in_the_files() -> None:
    made = marked(entries := [entry(value=49), entry(method="random", value=50)], board(*entries).benchmarks)
    whole = board(*made)
    assert "| 49.0 [44.0, 54.0] ↓R |" in to_markdown(whole) and ">49.0 [44.0, 54.0] ↓R</td>" in to_html(whole)
    lines = list(csv.DictReader(io.StringIO(to_csv(whole))))
    assert [line["preservation_all_below_random"] for line in lines] == ["1", ""]
    assert [line["preservation_all_below_downsample"] for line in lines] == ["", ""]
    said = [note for note in notes(made, {}, micro=True) if "↓" in note]
    assert said == ["↓R: below random at the same model and retention, over the same benchmarks."]
