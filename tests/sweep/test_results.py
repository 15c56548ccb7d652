"""From answers to a table: scores kept by content, incomplete cells, what was kept, and where each number came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import flops, results
from harness.experiments import Experiment, Judge
from harness.flops import paper
from harness.plan import Data, Plan, PlannedCell, make
from harness.scoring.wordnet import ABSENT
from harness.store import Answer, Index, Store
from model_wrappers.errors import UserError
from tests.benchmarks import layouts
from tests.conftest import Said
from tests.sweep.conftest import write_experiment

Make = Callable[..., Experiment]
ROWS = [{"method": "vanilla"}, {"method": "fastv", "fields": {"layer": 2}, "keep": [0.5]}]
RIGHT = {0: "A", 1: "B", 2: "C", 3: "D"}  # layouts.next_qa: question i has answer i


def answer(store: Store, cell: PlannedCell, given: dict[int, str | None], kept: int = 16) -> None:
    with store.cell(cell.settings).open() as writer:
        for index, text in given.items():
            layers = [16] + [kept] * 5
            done = Answer(index, text, None, 16, kept, layers, kept / 16, 0.001, 0.002)
            writer.append(done if text is not None else Answer(index, error="broken"))


@pytest.fixture
def made(experiment: Make, videos: Path, tmp_path: Path) -> tuple[Plan, Data, Store]:
    chosen = experiment(rows=ROWS, benchmarks=("NExT-QA-MC",))
    data, store = Data(chosen, videos), Store(tmp_path / "runs")
    return make(chosen, data, store), data, store


def test_scores_preservation_and_what_was_kept(made: tuple[Plan, Data, Store]) -> None:
    plan, data, store = made
    vanilla, fastv = plan.cells
    answer(store, vanilla, RIGHT)
    answer(store, fastv, {**RIGHT, 3: "A"}, kept=8)
    found = results.collect(plan, data, store)
    first, second = found.table.rows
    assert (first.cells["NExT-QA-MC"].score, second.cells["NExT-QA-MC"].score) == (100.0, 75.0)
    assert [row.averages[0].value for row in found.table.rows] == [100.0, 75.0]
    assert (second.realised, second.evidence_kept, second.retention) == (0.5, 0.5, 0.5)
    assert second.layer_mean == (16 + 5 * 8) / 6 / 16
    assert found.lacks == []
    source = found.sources[1]
    assert (source["method"], source["keep"]) == ("fastv", 0.5)
    folder = store.root / "cells" / source["cells"]["NExT-QA-MC"]["cell"]
    assert json.loads((folder / "settings.json").read_text()) == fastv.settings
    score = store.score(source["cells"]["NExT-QA-MC"]["score"])
    assert score is not None and score["per_sample"] == [[0, 1.0], [1, 1.0], [2, 1.0], [3, 0.0]]


def test_what_rows_cost_where_the_experiment_asks(made: tuple[Plan, Data, Store]) -> None:
    plan, data, store = made
    [model] = plan.experiment.models
    plan = replace(plan, experiment=plan.experiment.model_copy(update={"costs_at": {model: 320}}))
    vanilla, fastv = plan.cells
    answer(store, vanilla, RIGHT)
    answer(store, fastv, RIGHT, kept=8)
    found = results.collect(plan, data, store)
    decoder = flops.shape_of(model).decoder
    wanted = [paper.language_model([320, *[left] * 5], decoder) / 1e12 for left in (320, 160)]
    assert [row.costs.tflops for row in found.table.rows if row.costs] == pytest.approx(wanted)
    assert any("TFLOPs (paper)" in note for note in found.table.notes)
    assert any("not measured on this machine" in note for note in found.table.notes)


def test_a_score_is_computed_once_and_again_when_an_answer_changes(
    made: tuple[Plan, Data, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, data, store = made
    for cell in plan.cells:
        answer(store, cell, RIGHT)
    results.collect(plan, data, store)
    assert len(list((store.root / "scores").glob("[0-9a-f]*.json"))) == 1, "equal answers have one score"
    opened = []
    real = Data.open
    monkeypatch.setattr(Data, "open", lambda self, name: opened.append(name) or real(self, name))
    results.collect(plan, data, store)
    assert opened == []
    answer(store, plan.cells[1], {2: "E"})
    changed = results.collect(plan, data, store)
    assert opened == ["NExT-QA-MC"]
    assert changed.table.rows[1].cells["NExT-QA-MC"].score == 75.0


def test_a_failed_or_missing_sample_gives_no_score_and_no_average(made: tuple[Plan, Data, Store]) -> None:
    plan, data, store = made
    answer(store, plan.cells[0], {**RIGHT, 3: None})
    answer(store, plan.cells[1], {0: "A"})
    found = results.collect(plan, data, store)
    cells = [row.cells["NExT-QA-MC"] for row in found.table.rows]
    assert [(cell.score, cell.n, cell.total) for cell in cells] == [(None, 3, 4), (None, 1, 4)]
    assert [row.averages[0].value for row in found.table.rows] == [None, None]
    reasons: list[dict[Index, str]] = [dict(lack.reasons) for lack in found.lacks]
    assert reasons == [{3: "broken"}, {}]


def test_a_limit_scores_the_first_samples_and_says_so(experiment: Make, videos: Path, tmp_path: Path) -> None:
    chosen = experiment(max_samples=2, rows=ROWS[:1], benchmarks=("NExT-QA-MC",))
    data, store = Data(chosen, videos), Store(tmp_path / "runs")
    plan = make(chosen, data, store)
    answer(store, plan.cells[0], {0: "A", 1: "E"})
    found = results.collect(plan, data, store)
    cell = found.table.rows[0].cells["NExT-QA-MC"]
    assert (cell.score, cell.n, cell.total) == (50.0, 2, 2)
    assert found.table.title == "Small, first 2 samples of each benchmark"


def test_a_judge_without_its_key_is_told_before_anything_is_asked(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    judge = Judge(base_url="http://localhost:1/v1", model="m", key_env="MY_KEY")
    chosen = experiment().model_copy(update={"judge": judge})
    store = Store(tmp_path)
    with pytest.raises(UserError, match="MY_KEY"):
        results.check_judges(chosen, store, results.account_of(chosen, store))
    monkeypatch.setenv("MY_KEY", "x")
    results.check_judges(chosen, store, results.account_of(chosen, store))
    with pytest.raises(UserError, match="limit in dollars cannot be kept without its price"):
        results.check_judges(chosen, store, results.account_of(chosen, store, limit=5.0))


def test_wups_without_wordnet_is_told_before_anything_is_asked(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    layouts.next_oe(tmp_path / "data")
    path = write_experiment(tmp_path, checkpoint, ROWS[:1], ("NExT-QA-OE",))
    content = yaml.safe_load(path.read_text())
    monkeypatch.setattr("harness.scoring.wordnet.places", lambda: [])
    command = ["run", path, "--profile", "paper", "--data", tmp_path / "data", "--store", tmp_path / "runs"]
    for judge, status in (("official", 2), ("exact", 0)):
        content["profiles"]["paper"]["judge"] = judge
        path.write_text(yaml.safe_dump(content))
        done, _, err = said(*command)
        assert (done, (tmp_path / "runs" / "cells").exists()) == (status, judge == "exact"), err
        if status:
            assert err == f"retain: NExT-QA-OE cannot be scored: {ABSENT}\n"


@pytest.mark.parametrize("name", ["FORCE_QWENVL_VIDEO_READER", "MODEL_SEQ_LEN"])
def test_no_environment_variable_may_change_a_number(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    chosen = experiment()
    with pytest.raises(UserError, match=name):
        make(chosen, Data(chosen, videos), Store(tmp_path))


def test_a_kept_score_says_what_it_was_made_of(made: tuple[Plan, Data, Store]) -> None:
    plan, data, store = made
    answer(store, plan.cells[0], RIGHT)
    results.collect(plan, data, store)
    (path,) = (store.root / "scores").glob("[0-9a-f]*.json")
    made_of: dict[str, Any] = json.loads(path.read_text())["made_of"]
    assert set(made_of) == {"predictions", "benchmark", "frames", "judge", "scorer"}
    assert set(made_of["scorer"]) == {"code", "ms-vlmeval"}
