"""Where a method is not defined: told before a run, a dash in every table, and no failure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import plan as plans
from harness import results, sweep
from harness.cli import main
from harness.experiments import Experiment
from harness.leaderboard.gather import Gathering
from harness.leaderboard.write import to_csv as board_csv
from harness.leaderboard.write import to_markdown as board_markdown
from harness.plan import Data, Plan
from harness.store import Store
from harness.tables import from_csv, to_csv, to_markdown
from tests.benchmarks import layouts
from tests.sweep.conftest import write_experiment
from tests.tiny_vila import tiny_vila

Make = Callable[..., Experiment]
ROWS: list[dict[str, Any]] = [
    {"method": "vanilla"},
    {"method": "downsample", "keep": [0.5]},
    {"method": "fewer_frames", "keep": [0.5, 0.25]},
]
BOTH = ("NExT-QA-MC", "MME")
VIDEO_ONLY = "it is defined for video prompts only"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four questions about videos and four about images."""
    folder = tmp_path_factory.mktemp("data")
    layouts.next_qa(folder)
    layouts.mme(folder, layouts.mme_pair(3) + layouts.mme_pair(4))
    return folder


def made(chosen: Experiment, data: Path, store: Store) -> tuple[Plan, sweep.SweepResult, results.Results]:
    opened = Data(chosen, data)
    result = sweep.run(chosen, store, data=opened)
    return result.plan, result, results.collect(result.plan, opened, store)


def test_a_video_method_on_an_image_benchmark(experiment: Make, data: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    chosen = experiment(rows=ROWS, benchmarks=BOTH)
    plan, result, found = made(chosen, data, store)
    name = Path(chosen.models[0]).name
    assert plan.left_out() == [f"fewer_frames is not run for {name} on MME: {VIDEO_ONLY}"]
    assert [(cell.row, cell.keep) for cell in plan.cells if cell.benchmark == "MME"] == [(0, 1.0), (1, 0.5)]
    assert result.failures == [] and result.unfinished == [] and found.lacks == []
    assert result.answered == 4 * (4 + 2)
    rows = {(row.method, row.retention): row for row in found.table.rows}
    assert set(rows["fewer_frames", 0.5].cells) == {"NExT-QA-MC"} and set(rows["downsample", 0.5].cells) == set(BOTH)
    assert rows["fewer_frames", 0.5].averages[0].value is None
    text = to_markdown(found.table)
    line, *_ = (line for line in text.splitlines() if "| Fewer frames" in line and " 50% " in line)
    shown = [part.strip() for part in line.split("|")[1:-1]]
    assert shown[4:6] == ["-", "-"] and shown[3] not in ("", "-")
    assert f"- -: fewer_frames is not run for {name} on MME: {VIDEO_ONLY}." in text
    (line,) = [line for line in csv.DictReader(io.StringIO(to_csv(found.table))) if line["retention"] == "0.25"]
    assert line["MME"] == line["avg_pct"] == "" and line["NExT-QA-MC"] != ""
    assert "MME" not in from_csv(to_csv(found.table)).rows[-1].cells
    board = Gathering(store)
    board.add(plan, found, Data(chosen, data))
    made_of = board.leaderboard()
    (line, *_) = [each for each in csv.DictReader(io.StringIO(board_csv(made_of))) if each["method"] == "fewer_frames"]
    assert line["MME"] == "" and line["NExT-QA-MC"] != "" and line["preservation_image"] == ""
    assert f"fewer_frames is not run for {name} on MME: {VIDEO_ONLY}" in board_markdown(made_of)
    # The plan that is kept says the same.
    assert plans.make(chosen, Data(chosen, data), store) == plan


def test_what_was_made_is_recorded_with_each_answer(experiment: Make, data: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    plan, _, found = made(experiment(rows=ROWS, benchmarks=("NExT-QA-MC",)), data, store)
    # 8 frames of 2 x 2 tokens a pair: 16; smaller than 2 x 2 is 1 x 1, and half of four pairs are two.
    expected = {("vanilla", 1.0): 16, ("downsample", 0.5): 4, ("fewer_frames", 0.5): 8, ("fewer_frames", 0.25): 4}
    for cell in plan.cells:
        kept = expected[plan.experiment.rows[cell.row].method, cell.keep]
        answers = store.cell(cell.settings).read().values()
        assert {(each.visual, each.kept, tuple(each.kv_visual or ())) for each in answers} == {(16, kept, (kept,) * 6)}
    assert {(row.method, row.retention): row.realised for row in found.table.rows} == {
        key: kept / 16 for key, kept in expected.items()
    }
    assert [row.layer_mean for row in found.table.rows] == [row.realised for row in found.table.rows]


def test_evidence_is_not_told_of_tokens_that_were_never_there(experiment: Make, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    layouts.next_qa(folder)
    scene = {"grid": [4, 2, 2], "cells": [[0, 0, 0], [3, 1, 1]]}
    (folder / "evidence").mkdir()
    (folder / "evidence" / "NExT-QA-MC.json").write_text(json.dumps({str(index): scene for index in range(4)}))
    store = Store(tmp_path / "runs")
    plan, result, found = made(experiment(rows=ROWS, benchmarks=("NExT-QA-MC",)), folder, store)
    assert result.failures == []
    assert [row.evidence_kept for row in found.table.rows] == [1.0, None, None, None]


def test_a_method_without_a_single_cell_leaves_the_run_alone(experiment: Make, data: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    chosen = experiment(model=tiny_vila(), settings={}, rows=ROWS, benchmarks=("MME",))
    plan, result, found = made(chosen, data, store)
    name = Path(chosen.models[0]).name
    assert plan.left_out() == [f"fewer_frames is not run for {name} on MME: {VIDEO_ONLY}"]
    assert result.failures == [] and found.lacks == []
    _, downsample, *fewer = found.table.rows
    assert (downsample.method, downsample.realised) == ("downsample", 9 / 16)  # 3 x 3 of 4 x 4: nearest to 8
    assert [(row.method, dict(row.cells), row.realised) for row in fewer] == [("fewer_frames", {}, None)] * 2
    line, *_ = (line for line in to_markdown(found.table).splitlines() if "| Fewer frames" in line)
    assert [part.strip() for part in line.split("|")[4:6]] == ["-"] * 2
    board = Gathering(store)
    board.add(plan, found, Data(chosen, data))
    made_of = board.leaderboard()
    assert sorted({entry.method for entry in made_of.entries}) == ["downsample", "vanilla"]
    assert [entry.failures for entry in made_of.entries] == [0, 0]
    assert f"-: fewer_frames is not run for {name} on MME: {VIDEO_ONLY}." in made_of.notes
    (line, *_) = [each for each in csv.DictReader(io.StringIO(board_csv(made_of))) if each["method"] == "downsample"]
    assert line["MME"] != ""


def test_any_method_on_prompts_without_image_or_video() -> None:
    words = [{"type": "text", "value": "one"}]
    assert plans._shows("image", [words, words]) == "text"
    assert plans._shows("image", [words, [*words, {"type": "image", "value": "a.png"}]]) == "image"
    assert plans._shows("video", ["the video is gone"]) == "video", "nothing is known of it"


def test_a_text_only_benchmark_is_asked_of_vanilla_alone(
    experiment: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_shows", lambda modality, messages: "text")
    rows = [{"method": "vanilla"}, {"method": "random", "keep": [0.5]}]
    chosen = experiment(rows=rows, benchmarks=("MME",))
    plan = plans.make(chosen, Data(chosen, data), Store(tmp_path / "runs"))
    assert [cell.row for cell in plan.cells] == [0]
    (sentence,) = plan.left_out()
    assert sentence.startswith("random is not run for") and sentence.endswith(
        "on MME: a prompt without image or video has no visual tokens"
    )


def test_the_command_says_so_before_the_run_and_ends_well(
    data: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, checkpoint, ROWS[::2], ("NExT-QA-MC", "MME"))
    command = ["run", path, "--profile", "paper", "--data", data, "--store", tmp_path / "runs", "--workers", 1]
    assert main([str(part) for part in command]) == 0
    out, err = capfd.readouterr()
    said = f"retain: fewer_frames is not run for {checkpoint.name} on MME: {VIDEO_ONLY}; the table shows - there"
    assert err.splitlines()[0] == said and err.count("not run for") == 1
    assert "incomplete" not in out and f"-: fewer_frames is not run for {checkpoint.name} on MME" in out
