"""The bars of the embedded default say what its scores say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.micro.report import CHECKPOINTS, Accuracies, accuracies, bars, compressors, guessing, write
from harness.store import Store

VIDEO, IMAGE = ("Video-MME", "MMBench-Video"), ("MME", "MMVet")
GOOD = {"vanilla": 95.0, "oracle": 93.0, "anti-oracle": 20.0, "random": 40.0, "relevance": 80.0}
KEEP = {"vanilla": 1.0, "anti-oracle": 0.5}
TOPICS = {
    "Video-MME": ["color", "when"],
    "MMBench-Video": ["color", "yesno"],
    "MME": ["yesno", "yesno"],
    "MMVet": ["color", "kind"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    manifest = {name: {"topics": topics} for name, topics in TOPICS.items()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def _found(percents: dict[str, float]) -> Accuracies:
    return {(name, KEEP.get(name, 0.1)): dict.fromkeys((*VIDEO, *IMAGE), value) for name, value in percents.items()}


def test_guessing_counts_options_or_possible_answers(data: Path) -> None:
    assert guessing(data) == pytest.approx(
        {
            "Video-MME": 25.0,
            "MMBench-Video": 100 * (1 / 8 + 1 / 2) / 2,
            "MME": 50.0,
            "MMVet": 100 * (1 / 8 + 1 / 12) / 2,
        }
    )


def test_right_answers_come_from_the_scores_and_seeds_are_averaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key, rights in {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [0.0, 0.0]}.items():
        store.save_score(key, {"per_sample": list(enumerate(rights))})
    rows = [("vanilla", 1.0, "a"), ("random", 0.1, "b"), ("random", 0.1, "c")]
    sources = [
        {"model": "m", "method": method, "keep": keep, "cells": {"MME": {"score": key}}} for method, keep, key in rows
    ]
    assert accuracies(sources, store) == {"m": {("vanilla", 1.0): {"MME": 50.0}, ("random", 0.1): {"MME": 50.0}}}


def test_every_bar_holds_on_good_scores_and_each_can_fail(data: Path) -> None:
    guess = guessing(data)
    assert len(bars("m", _found(GOOD), guess)) == 10
    assert all(bar.holds for bar in bars("m", _found(GOOD), guess))
    spoils = [("vanilla", 84.0), ("oracle", 91.0), ("anti-oracle", 60.0), ("random", 75.0), ("relevance", 45.0)]
    for number, (name, value) in enumerate(spoils):
        spoilt = bars("m", _found({**GOOD, name: value}), guess)
        assert not spoilt[number].holds and not spoilt[5 + number].holds, name


def test_a_bar_that_fails_is_written_down_as_failing(data: Path, tmp_path: Path) -> None:
    tables, out = tmp_path / "tables", tmp_path / "out"
    tables.mkdir()
    out.mkdir()
    (out / "bench.json").write_text("{}")
    for suffix in ("md", "csv", "sources.json"):
        (tables / f"table3.{suffix}").write_text("a table")
    write({"m": _found({**GOOD, "vanilla": 84.0})}, tables, data, out)
    page = (out / "README.md").read_text()
    assert "lowest: 84.0% on Video-MME" in page and "**no**" in page and "[table3.md](table3.md)" in page
    assert (out / "table3.csv").read_text() == (out / "table3.sources.json").read_text() == "a table"
    assert json.loads((out / "bars.json").read_text())["commit"]
    assert "[bench.json](bench.json)" in page and "figures" not in page


def test_compressors_stand_beside_their_input_by_overlap_and_by_mass() -> None:
    """The committed ones: on micro-llava-onevision's videos the two disagree."""
    lines = compressors(CHECKPOINTS).splitlines()
    [line] = [line for line in lines if "micro-llava-onevision" in line and "video" in line]
    assert "-1.7 [-2.6, -0.7]" in line and "+4.6 [+1.9, +8.0]" in line
