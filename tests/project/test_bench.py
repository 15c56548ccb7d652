"""`retain bench` measures what it says, on real classes: a tiny random checkpoint, small data in the real formats."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness import bench
from harness.bench import relevance, scaling, waiting
from harness.data.sources import PAPER
from harness.experiments import Experiment, load
from model_wrappers.methods.downsample import Downsample
from tests.benchmarks.layouts import mvbench, next_qa
from tests.conftest import Said
from tests.tiny import tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

pytestmark = pytest.mark.long

EXPERIMENT = """
name: small
title: Small
benchmarks: [MVBench, NExT-QA-MC]
profiles:
  micro:
    models: ["{model}"]
    frames: 4
    model_settings: {{"{model}": {{min_pixels: 3136, max_pixels: 3136}}}}
    rows:
      - method: vanilla
      - {{method: random, keep: [0.5, 0.25]}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    mvbench(folder)
    next_qa(folder)
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "small.yaml"
    path.write_text(EXPERIMENT.format(model=_answering_briefly(tmp_path_factory.mktemp("checkpoint"))))
    return path


def _answering_briefly(folder: Path) -> Path:
    """A checkpoint that may stop soon: random weights never say the end token, and a model's default is long."""
    made = tiny_qwen2_vl(folder)
    settings = json.loads((made / "generation_config.json").read_text())
    settings["eos_token_id"] = [token for token in range(300) if token % 4]
    (made / "generation_config.json").write_text(json.dumps(settings))
    return made


@pytest.fixture(scope="module")
def experiment(file: Path) -> Experiment:
    return load(file)


def test_both_sides_answer_the_same_cells_alike(experiment: Experiment, data: Path) -> None:
    found = bench.compare(experiment, data, 2)
    # 2 benchmarks, vanilla and two ratios, 2 samples.
    assert (found.answers, found.equal, found.equal_single) == (12, 12, 12)
    assert found.sweep_seconds > 0 and found.single_seconds > 0 and found.loop_seconds > 0
    assert found.ratio == pytest.approx(found.loop_seconds / found.sweep_seconds)
    assert found.single_ratio == pytest.approx(found.loop_seconds / found.single_seconds)


def test_answers_that_batches_change_in_half_precision_are_counted(
    experiment: Experiment, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are put in."""
    from model_wrappers import together

    real, batches = together.run_generate, []

    def run_generate(model: Any, prompt: Any, cuts: Any, **settings: Any) -> Any:
        found = real(model, prompt, cuts, **settings)
        if len(cuts) > 1:
            batches.append(prompt.inputs_embeds.dtype)
            if len(batches) == 1:
                found[1, 0] = (found[1, 0] + 1) % 200
        return found

    some = experiment.model_copy(update={"benchmarks": ["NExT-QA-MC"]})
    before = bench.tipped(some, data, 2)
    monkeypatch.setattr(together, "run_generate", run_generate)
    after = bench.tipped(some, data, 2)
    assert set(batches) == {torch.bfloat16} and len(batches) == 2
    assert (before.answers, after.answers, after.different) == (6, 6, before.different + 1)


@pytest.mark.usefixtures("warm_workers")
def test_waiting_is_measured_for_a_thread_and_for_a_process(experiment: Experiment, data: Path) -> None:
    waits = waiting.measure(experiment, data, 3)
    assert [(each.multiple, each.processes) for each in waits if not each.scaled] == [
        (multiple, processes) for multiple in (4.0, 2.0, 1.0) for processes in (0, 1)
    ]
    assert all(0 <= each.share < 1 for each in waits)
    thread, process = (each for each in waits if each.scaled)
    assert thread.multiple == process.multiple > 0 and (thread.processes, process.processes) == (0, 1)


def test_the_report_says_whether_the_aim_is_held() -> None:
    waits = [(6.42, 1, 0.1, 0.0, True), (2.0, 0, 0.25, 0.5), (2.0, 1, 0.01, 0.0), (1.0, 1, 0.101, 0.0)]
    assert waiting.rows([waiting.Wait(*each) for each in waits]) == [
        [
            "GPU at 6.42 x a sample's decoding (as this run), 1 process",
            "waits 10.0% (aim: 10%, held), launches 0% slower",
        ],
        ["GPU at 2 x a sample's decoding, a thread", "waits 25.0%, launches 50% slower"],
        ["GPU at 2 x a sample's decoding, 1 process", "waits 1.0% (aim: 10%, held), launches 0% slower"],
        ["GPU at 1 x a sample's decoding, 1 process", "waits 10.1% (aim: 10%, missed), launches 0% slower"],
    ]


def test_several_models(experiment: Experiment, data: Path, tmp_path: Path) -> None:
    [first] = experiment.models
    second = shutil.copytree(first, tmp_path / "second")
    changes = {"models": [first, str(second)], "benchmarks": ["MVBench"], "rows": experiment.rows[:1]}
    found = bench.compare(experiment.model_copy(update=changes), data, 1)
    assert (found.answers, found.equal) == (2, 2)


def test_a_row_that_is_not_defined_for_a_model_is_asked_of_the_others(
    experiment: Experiment, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlike = lambda _, family, shows: "not for VILA" if family == "retain_vila" else None  # noqa: E731
    monkeypatch.setattr(Downsample, "undefined", unlike)
    models = [*experiment.models, str(tiny_vila(tmp_path / "vila"))]
    smaller = experiment.rows[1].model_copy(update={"method": "downsample", "fields": {}, "keep": [0.5]})
    brief = {model: {"max_new_tokens": 4} for model in models}
    changes = {"models": models, "benchmarks": ["MVBench"], "rows": [experiment.rows[0], smaller]}
    found = bench.compare(experiment.model_copy(update={**changes, "model_settings": brief}), data, 1)
    assert (found.answers, found.equal) == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--profile", "paper"], f"{PAPER.name}/"),
        (["--profile", "paper", "--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--samples", "0"], "--samples 0: allowed are whole numbers from 1"),
        (["--limit", "0"], "--limit 0: allowed are whole numbers from 1"),
        (["--workers", "0"], "--workers 0: allowed are whole numbers from 1"),
        (["--longest", "-1"], "--longest -1: allowed are whole numbers from 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    """Data is looked for where `retain run` looks; micro's is no stand-in for the paper's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(relevance, "measure", lambda *_: pytest.fail("something was measured"))
    status, out, err = said("bench", *arguments)
    assert status == 2 and part in err and out == "" and not list(tmp_path.rglob("micro-*"))


def test_the_whole_command(
    file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "WORKERS", (1,))
    monkeypatch.setattr(scaling, "GPUS", (2,))
    monkeypatch.setattr(scaling, "SECONDS", 2)
    out = tmp_path / "results" / "bench.json"
    arguments = ["--experiment", str(file), "--data", str(data), "--samples", "1", "--limit", "2", "--longest", "0"]
    assert bench.main([*arguments, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["comparison"]["equal"] == found["comparison"]["answers"] == 6
    assert found["half_precision"]["answers"] == 6 and len(found["waiting"]) == 8
    assert found["grid"]["answers"] == 12 and found["grid"]["failures"] == 0
    parts = found["grid"]["decode"] + found["grid"]["encode"] + found["grid"]["answer"]
    assert found["grid"]["overhead"] == pytest.approx(1 - parts, abs=1e-3)
    assert (found["grid"]["models"], found["grid"]["workers"]) == (1, 1)
    assert 2**28 < found["grid"]["peak_memory"] < 2**34  # this process, with all that earlier tests left in it
    assert found["scaling"]["workers"]["1"] > 0 and found["scaling"]["ideal"] == {"2": 20.0}
    [agreed] = found["relevance"]["agreement"]  # 3 samples of each benchmark, five options
    assert agreed["cases"] == 30 and 0 < float(agreed["float32"]["worst"]) < float(agreed["bfloat16"]["worst"])
    assert 0 < found["scaling"]["gpus"]["2"] <= 20 and 0 < found["scaling"]["driver_cpu"]["2"]
    assert found["machine"]["cpu"] and found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["torch"].startswith("2.")
    assert set(found["start_seconds"]) == {"python", "retain --help", "import model_wrappers"}
    shown = capsys.readouterr().out
    assert "x faster" in shown and "6 of 6" in shown and "cores" in shown


def test_overhead_is_what_is_neither_decoding_nor_the_model() -> None:
    whole = bench.Grid(3, 100, 0, 2, 3 << 29, 1.0, 10.0, 0.5, 0.1, 0.1, 0.2, 0.65, 0.05)
    compared = bench.Comparison(2.0, 3.5, 7.0, 50, 49, 48)
    scales = scaling.Scaling({1: 4.0, 2: 7.0}, {1: 10.0, 64: 608.0}, {1: 10.0, 64: 640.0}, {1: 0.01, 64: 0.2})
    text = bench.report(
        compared, bench.Tipped("bfloat16", 50, 3), [], whole, scales, {"python": 0.02}, relevance.Measured()
    )
    said = {
        parts[1].strip(): parts[2].strip()
        for parts in (line.split("|") for line in text.splitlines())
        if len(parts) > 3
    }
    assert said["sweep against VLMEvalKit's loop, once a cell"] == "3.50 x faster"
    assert said["the same without batches"] == "2.00 x faster"
    assert (said["equal answers"], said["equal answers without batches"]) == ("49 of 50", "48 of 50")
    assert said["answers that batches change in bfloat16, where they are off"] == "3 of 50"
    assert said["whole grid, from an empty store to the table"] == "11.5 s"
    assert said["share of the answering time: harness"] == "5.00%"
    assert said["methods and LLM"] == "65.0%"
    assert said["Ray, 2 workers"] == "7.0 answers/s, 1.75 x"
    assert said["Ray, 64 simulated GPUs at 10 answers/s"] == "608.0 answers/s, 95%; driver 20% of a core"
    assert (said["models, processes"], said["most memory of a process"]) == ("3, 2", "1.50 GiB")


SHAPE = relevance.Shape(layers=2, hidden=32, heads=4, key_heads=2, intermediate=32)


def test_relevance_is_measured_in_a_fresh_process() -> None:
    found = relevance._alone(SHAPE, "textbook", 256, response=8)
    maps = 2 * 4 * 256**2 * 4  # bytes of the two layers' attention
    assert found["seconds"] > 0 and maps < found["peak_bytes"] < 2**28, "not what this process has loaded"
    assert len(found["scores"]) == 256 and found["threads"] >= 1


def test_relevance_in_both_forms_and_how_it_grows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(command: list[str], **_: Any) -> SimpleNamespace:
        relevance.child(command[-1])
        return SimpleNamespace(stdout=capsys.readouterr().out)

    monkeypatch.setattr(subprocess, "run", here)
    monkeypatch.setattr(relevance, "OFTEN", 256)
    noted: list[str] = []
    monkeypatch.setattr(relevance, "say", noted.append)
    measured = relevance.measure(SHAPE, both=[256], alone=[])
    costs = measured.costs
    assert [(cost.form, cost.n_visual, cost.response) for cost in costs] == [
        ("streaming", 256, 1),
        ("prefill", 256, 1),
        ("textbook", 256, 1),
        ("plain", 256, 1),
        ("streaming", 256, 8),
        ("textbook", 256, 8),
    ]
    turns = [line.rpartition(" ")[2] for line in noted[:-1]]
    assert turns == ["streaming", "prefill", "textbook", "plain"] * relevance.ROUNDS, "the forms take turns"
    assert all(cost.seconds > 0 for cost in costs)
    assert 0 < measured.differences[256] <= 1e-5, "two computations of the same"
    said = dict(relevance.rows(measured))
    assert said["  the two forms' results differ by at most"].endswith("of the largest score")
    assert said["  torch threads in these measurements"] == str(torch.get_num_threads())
    summed = relevance.summary(SHAPE, measured)
    assert float(summed["differences"]["256"]) > 0 and summed["torch_threads"] == torch.get_num_threads()


def test_a_plain_pass_is_one_forward_and_one_backward_pass() -> None:
    model = relevance._model(SHAPE, "cpu")
    [gradient] = relevance.work(model, "plain", 32)()
    assert gradient.shape == (1, 32 + relevance.TEXT, SHAPE.hidden) and (gradient[0, 0] != 0).any()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_report_of_costs() -> None:
    made = [relevance.Cost("streaming", n, n * n / 1e6, 5 * n) for n in (100, 200, 400)]
    assert relevance.exponents(made, "streaming") == pytest.approx({"memory": 1.0, "time": 2.0})
    made += [relevance.Cost("prefill", n, n / 1e4, 1) for n in (100, 200, 400)]
    made.append(relevance.Cost("textbook", 100, 0.04, 2000))
    longer = [relevance.Cost("streaming", 100, 0.05, 800, 8), relevance.Cost("textbook", 100, 0.1, 1600, 8)]
    assert relevance.exponents(made + longer, "streaming") == relevance.exponents(made, "streaming")
    assert [value for _, value in relevance.rows(relevance.Measured(made + longer))][2:4] == [
        "0.05 s, 0 MiB, 5.0 prefills",
        "50% time, 50% memory",
    ]
    made.append(relevance.Cost("plain", 100, 0.02, 1500))
    said = dict(relevance.rows(relevance.Measured(made, {100: 3.2e-7}, 2)))
    assert said["  a plain forward and backward pass, the floor"] == "50% time"
    assert said["  the two forms' results differ by at most"] == "3e-07 of the largest score"
    assert said["  torch threads in these measurements"] == "2"
    assert said["relevance of 100 visual tokens for an answer of one token"].endswith("1.0 prefills")
    assert said["  of the textbook form's"] == "25% time, 25% memory"
    assert said["  streaming grows as"] == "n^1.00 in memory, n^2.00 in time"
    assert "  streaming to 100 tokens grows as" not in said, "one length has no slope"
    made.append(relevance.Cost("textbook", 200, 0.16, 8000))
    said = dict(relevance.rows(relevance.Measured(made)))
    assert said["  streaming to 200 tokens grows as"] == "n^1.00 in memory, n^2.00 in time"
    assert said["  textbook grows as"] == "n^2.00 in memory, n^2.00 in time"
