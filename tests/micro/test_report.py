"""The bars of the embedded default say what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.layout import RowResult, Table, build
from harness.micro.report import accuracy, bars, guessing
from harness.statistics import Cell

NAMES = ("Video-MME", "MMBench-Video")
GOOD = {"vanilla": 95.0, "oracle": 93.0, "anti-oracle": 20.0, "random": 40.0, "relevance": 80.0}
KEEP = {"vanilla": 1.0, "anti-oracle": 0.5}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    topics = {"Video-MME": ["color", "when"], "MMBench-Video": ["color", "yesno"]}
    manifest = {name: {"topics": topics[name]} for name in NAMES}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def _table(percents: dict[str, float]) -> Table:
    rows = []
    for name, percent in percents.items():
        cells = {"Video-MME": Cell(percent, 2, 2, "s"), "MMBench-Video": Cell(percent * 0.03, 2, 2, "s")}
        rows.append(RowResult("m", name, "", KEEP.get(name, 0.1), cells))
    return build(rows, NAMES, title="t", micro=True)


def test_scores_of_every_scale_become_percent() -> None:
    assert accuracy(_table(GOOD).rows[0]) == pytest.approx({"Video-MME": 95.0, "MMBench-Video": 95.0})


def test_guessing_counts_options_or_possible_answers(data: Path) -> None:
    assert guessing(data) == pytest.approx({"Video-MME": 25.0, "MMBench-Video": 100 * (1 / 8 + 1 / 2) / 2})


def test_every_bar_holds_on_a_good_table_and_each_can_fail(data: Path) -> None:
    assert all(bar.holds for bar in bars(_table(GOOD), data))
    spoils = [("vanilla", 84.0), ("oracle", 91.0), ("anti-oracle", 60.0), ("random", 75.0), ("relevance", 45.0)]
    for number, (name, value) in enumerate(spoils):
        assert not bars(_table({**GOOD, name: value}), data)[number].holds, name
