"""The sweep: nothing asked twice, one bad sample fails alone, what was kept is recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import sweep
from harness.experiments import Experiment
from harness.plan import Data
from harness.store import Index, Store
from harness.sweep.progress import Progress
from model_wrappers.errors import UserError
from tests.benchmarks import layouts

Make = Callable[..., Experiment]
Given = dict[tuple[str, float, str], dict[Index, str | None]]


def run(experiment: Experiment, data: Path, store: Path, **options: Any) -> sweep.SweepResult:
    return sweep.run(experiment, Store(store), data=Data(experiment, data), **options)


def given(result: sweep.SweepResult, store: Path) -> Given:
    """By method, keep and benchmark: the predictions by index."""
    rows = result.plan.experiment.rows
    return {
        (rows[cell.row].method, cell.keep, cell.benchmark): {
            index: answer.prediction for index, answer in Store(store).cell(cell.settings).read().items()
        }
        for cell in result.cells
    }


def lines(store: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(store.glob("cells/*/predictions.jsonl"))}


def test_what_was_kept_is_recorded_with_each_answer(experiment: Make, videos: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    result = run(experiment(benchmarks=("NExT-QA-MC",)), videos, tmp_path)
    assert torch.get_num_threads() == threads
    for cell in result.cells:
        row = result.plan.experiment.rows[cell.row]
        for answer in Store(tmp_path).cell(cell.settings).read().values():
            assert answer.visual == 16 and answer.kept == 16 * cell.keep
            assert answer.kv_visual == ([16] + [answer.kept] * 5 if row.method == "fastv" else [answer.kept] * 6)
            assert answer.error is None and answer.evidence_kept is None
            assert answer.seconds is not None and answer.scoring_seconds is not None
            assert answer.seconds > 0 and answer.scoring_seconds >= 0
    assert result.failures == [] and result.answered == 24
    assert 0 < result.timing.encode + result.timing.answer < result.timing.wall


def test_what_layers_worked_on_is_recorded_where_their_caches_hold_less(
    experiment: Make, videos: Path, tmp_path: Path
) -> None:
    """Of four frames of four tokens two each are merged, and one each is left."""
    rows = [{"method": "vanilla"}, {"method": "prunevid", "fields": {"tau": 1.5, "least": 1}, "keep": [0.25]}]
    result = run(experiment(rows=rows, benchmarks=("NExT-QA-MC",)), videos, tmp_path)
    assert result.failures == []
    for cell in result.cells:
        merges = result.plan.experiment.rows[cell.row].method == "prunevid"
        for answer in Store(tmp_path).cell(cell.settings).read().values():
            assert answer.kv_visual == [4 if merges else 16] * 6
            assert answer.worked == ([8, 8, 4, 4, 4, 4] if merges else None)


def test_evidence_is_attached_and_what_is_kept_of_it_recorded(experiment: Make, videos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(videos, data)
    chosen = experiment(benchmarks=("NExT-QA-MC",))
    indices = Data(chosen, data).open("NExT-QA-MC").indices
    (data / "evidence").mkdir()
    file = data / "evidence" / "NExT-QA-MC.json"
    scene = {"grid": [4, 2, 2], "cells": [[0, 0, 0], [3, 1, 1]]}
    file.write_text(json.dumps({str(indices[0]): scene, str(indices[1]): {"grid": [4, 2, 2], "cells": []}}))
    result = run(chosen, data, tmp_path / "runs")
    kept: dict[str, list[Any]] = {}
    for cell in result.cells:
        answers = Store(tmp_path / "runs").cell(cell.settings).read()
        kept[f"{result.plan.experiment.rows[cell.row].method}@{cell.keep}"] = [
            answers[index].evidence_kept for index in indices
        ]
    assert kept["vanilla@1.0"] == [1.0, None, None, None]
    assert all(first in (0.0, 0.5, 1.0) and rest == [None] * 3 for first, *rest in kept.values())
    file.write_text(json.dumps({str(indices[0]): {"grid": [4, 2, 2], "cells": [[4, 0, 0]]}}))
    (failure,) = run(chosen, data, tmp_path / "other").failures
    assert "cell [4, 0, 0] lies outside the grid of 4 x 2 x 2" in failure.reason


class Stop(Progress):
    """Interrupts as Ctrl-C would, after a number of answers."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def advance(self, failed: bool = False) -> None:
        super().advance(failed)
        if self.fresh == self.after:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_where_it_was(experiment: Make, videos: Path, tmp_path: Path) -> None:
    chosen = experiment()
    whole = given(run(chosen, videos, tmp_path / "whole"), tmp_path / "whole")
    for after in (9, 17, 12):
        with pytest.raises(KeyboardInterrupt):
            run(chosen, videos, tmp_path / "parts", progress=Stop(after))
        before = lines(tmp_path / "parts")
    progress = Progress()
    result = run(chosen, videos, tmp_path / "parts", progress=progress)
    assert progress.total == 48 and progress.done > 9 and progress.done + progress.fresh == 48
    after_all = lines(tmp_path / "parts")
    assert all(after_all[name].startswith(content) for name, content in before.items())
    assert all(content.count(b"\n") == 4 for content in after_all.values()), "nothing is asked twice"
    assert given(result, tmp_path / "parts") == whole


def test_a_finished_run_opens_no_model_and_decodes_nothing(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = experiment(benchmarks=("NExT-QA-MC",))
    run(chosen, videos, tmp_path)
    before = lines(tmp_path)
    monkeypatch.setattr("harness.models.open_model", lambda *_, **__: pytest.fail("a model was opened"))
    result = run(chosen, videos, tmp_path)
    assert (result.answered, result.failures, lines(tmp_path)) == (0, [], before)


def test_only_samples_that_some_cell_lacks_are_decoded(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = experiment(benchmarks=("NExT-QA-MC",), max_samples=3)
    assert run(few, videos, tmp_path).answered == 18
    from model_wrappers.families.qwen2_vl import Qwen2VL

    decoded = []
    original = Qwen2VL.decode

    def counted(self: Any, *arguments: Any) -> Any:
        decoded.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(Qwen2VL, "decode", counted)
    assert run(experiment(benchmarks=("NExT-QA-MC",)), videos, tmp_path).answered == 6
    assert len(decoded) == 1
    more = experiment(benchmarks=("NExT-QA-MC",), rows=[{"method": "vanilla"}, {"method": "uniform", "keep": 0.5}])
    assert run(more, videos, tmp_path).answered == 4, "a new row asks for itself alone"
    assert len(decoded) == 5


def test_a_changed_field_makes_new_cells_and_leaves_the_old_ones(
    experiment: Make, videos: Path, tmp_path: Path
) -> None:
    def rows(layer: int) -> list[dict[str, Any]]:
        return [{"method": "vanilla"}, {"method": "fastv", "fields": {"layer": layer}, "keep": [0.5]}]

    first = run(experiment(benchmarks=("NExT-QA-MC",), rows=rows(2)), videos, tmp_path)
    before = lines(tmp_path)
    second = run(experiment(benchmarks=("NExT-QA-MC",), rows=rows(3)), videos, tmp_path)
    assert (first.answered, second.answered) == (8, 4)
    after = lines(tmp_path)
    assert len(before) == 2 and len(after) == 3
    assert {name: after[name] for name in before} == before


def test_a_bad_video_fails_its_samples_alone_and_is_tried_again(experiment: Make, tmp_path: Path) -> None:
    data = tmp_path / "data"
    layouts.next_qa(data)
    bad = data / "NExT-QA" / "NExTVideo" / "4001.mp4"
    whole = bad.read_bytes()
    chosen = experiment(benchmarks=("NExT-QA-MC",))
    for content in (b"", b"not a video" * 100):
        bad.write_bytes(content)
        result = run(chosen, data, tmp_path / "runs")
        assert len(result.failures) == 2 and result.answered in (12, 0)
        assert all(failure.cells == 6 and "4001.mp4" in failure.reason for failure in result.failures)
        answers = Store(tmp_path / "runs").cell(result.cells[0].settings).read()
        assert sorted(answer.error is None for answer in answers.values()) == [False, False, True, True]
        assert all(answer.prediction is None for answer in answers.values() if answer.error)
    bad.write_bytes(whole)
    result = run(chosen, data, tmp_path / "runs")
    assert result.failures == []


def test_an_exception_of_a_method_fails_that_cell_alone(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_wrappers.methods.random import Random

    chosen = experiment(benchmarks=("NExT-QA-MC",))
    monkeypatch.setattr(Random, "score", lambda *_: 1 / 0)
    result = run(chosen, videos, tmp_path)
    assert result.answered == 20 and len(result.failures) == 4
    assert {failure.reason for failure in result.failures} == {"random@0.5: ZeroDivisionError: division by zero"}
    monkeypatch.undo()
    assert run(chosen, videos, tmp_path).answered == 4


def test_a_method_that_cannot_run_on_the_model_stops_before_any_answer(
    experiment: Make, videos: Path, tmp_path: Path
) -> None:
    rows = [{"method": "vanilla"}, {"method": "fastv", "fields": {"layer": 9}, "keep": [0.5]}]
    with pytest.raises(UserError, match="layer=9, but the model has 6 layers"):
        run(experiment(rows=rows), videos, tmp_path)
    assert lines(tmp_path) == {}
