"""`retain figure` from a store: what is answered is drawn, and nothing is asked."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import MISTAKEN, main
from harness.experiments import Experiment
from harness.plan import Data, make
from harness.store import Answer, Store
from tests.sweep.conftest import checkpoint, experiment, videos

__all__ = ["checkpoint", "experiment", "videos"]
ROWS = [{"method": "vanilla"}, {"method": "fastv", "fields": {"layer": 2}, "keep": [0.5]}]


def test_the_store_is_drawn(
    experiment: Callable[..., Experiment], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = experiment(rows=ROWS, benchmarks=("NExT-QA-MC",))
    arguments = ["figure", chosen.source, "--profile", "paper", "--data", str(videos)]
    arguments += ["--store", str(tmp_path / "runs")]
    assert main(arguments) == MISTAKEN
    assert "no row of small is complete yet" in capsys.readouterr().err
    store = Store(tmp_path / "runs")
    plan = make(chosen, Data(chosen, videos), store)
    for _, row, _, [cell] in plan.rows():
        held = [16] * 6 if row.method == "vanilla" else [16, *[8] * 5]
        with store.cell(cell.settings).open() as log:
            for index in plan.samples["NExT-QA-MC"]:
                log.append(Answer(index, "A", visual=16, kept=held[-1], kv_visual=held))
    assert main(arguments) == 0
    assert "figures/small.{png,svg,points.csv}" in capsys.readouterr().out
    with (tmp_path / "runs/figures/small.points.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["method"], line["layer_mean"]) for line in lines] == [("vanilla", "1.0"), ("fastv", "0.583333")]


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", "figure33"]) == MISTAKEN
    assert "did you mean 'figure3'" in capsys.readouterr().err
