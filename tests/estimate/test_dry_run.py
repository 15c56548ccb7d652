"""`retain run --dry-run`: the real plan's cells and samples, what the run then shows its model, and nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from transformers import modeling_utils

from harness import plan as plans
from harness import sweep
from harness.cli import main
from harness.data.sources import SOURCES
from harness.estimate import cost
from harness.estimate.cells import of_plan, of_published
from harness.estimate.cost import lines
from harness.experiments import Judge, load
from harness.experiments.schema import JudgePrice
from harness.flops import PromptSize, count, shape_of
from harness.judging.estimate import BYTES_A_TOKEN, REPLY_TOKENS, VERDICT_TOKENS, WORDS, estimate
from harness.plan import Data
from harness.scoring import protocols
from harness.store import Store
from model_wrappers.compressor import net
from model_wrappers.registry import method
from model_wrappers.vila import hub
from tests.benchmarks import layouts
from tests.conftest import Said
from tests.sweep.conftest import write_experiment
from tests.tiny import tiny_llava_onevision, tiny_qwen2_vl

ROWS: list[dict[str, Any]] = [
    {"method": "vanilla"},
    {"method": "random", "keep": [0.5, 0.25]},
    {"method": "fewer_frames", "keep": [0.5]},
]
BOTH = ("NExT-QA-MC", "MME")
QWEN = "Qwen2-VL-7B-Instruct"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    layouts.next_qa(folder)
    layouts.mme(folder, layouts.mme_pair(3) + layouts.mme_pair(4))
    return folder


def rows_of(text: str) -> dict[tuple[str, str], list[str]]:
    """Cells of the printed table by model and benchmark."""
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {(line[0], line[1]): line[2:] for line in lines}


@pytest.mark.parametrize("checkpoint", [tiny_qwen2_vl, tiny_llava_onevision])
def test_it_tells_what_the_run_then_does(
    data: Path, tmp_path: Path, checkpoint: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Before and after a run: the plan's cells and samples, and the visual tokens that answers record."""
    folder = checkpoint()
    small = {} if checkpoint is tiny_llava_onevision else {"min_pixels": 3136, "max_pixels": 4 * 3136}
    path = write_experiment(tmp_path, folder, ROWS, BOTH, small)
    store = Store(tmp_path / "runs")
    command = ["run", path, "--profile", "paper", "--data", data, "--store", store.root]
    assert main([str(part) for part in [*command, "--dry-run"]]) == 0
    assert not store.root.exists(), "nothing is written"
    before = rows_of(capfd.readouterr().out)
    chosen = load(path, "paper")
    opened = Data(chosen, data)
    plan = plans.make(chosen, opened, store)
    for name in BOTH:
        new, answered, undefined, samples, answers, *_ = map(int, before[folder.name, name][:6])
        cells = [cell for cell in plan.cells if cell.benchmark == name]
        assert (new, answered, undefined) == (len(cells), 0, 4 - len(cells))
        assert (samples, answers) == (len(plan.samples[name]), len(cells) * len(plan.samples[name]))
    assert int(before[folder.name, "MME"][2]) == 1, "fewer_frames is defined for videos only"
    assert sweep.run(chosen, store, data=opened, plan=plan, workers=1).failures == []
    for name in BOTH:
        vanilla = next(cell for cell in plan.of(chosen.models[0], name))
        shown = {answer.visual for answer in store.cell(vanilla.settings).read().values()}
        assert shown == {int(before[folder.name, name][5])}
    after = {(line.benchmark): line for line in lines(chosen, of_plan(plan, opened, store))}
    assert [(after[name].new, after[name].answers, after[name].seconds) for name in BOTH] == [(0, 0, 0.0)] * 2
    assert [after[name].answered for name in BOTH] == [4, 3]


def test_the_papers_profile_without_its_data(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "table3", "--profile", "paper", "--dry-run", "--store", str(tmp_path / "runs")]) == 0
    out = capfd.readouterr().out
    table = rows_of(out)
    chosen = load("table3", "paper")
    cells = dict.fromkeys(chosen.models, 1 + 4 * 3)  # vanilla, and four methods at three keeps
    for model in chosen.models:
        for name in chosen.benchmarks:
            new, answered, undefined, samples, answers = map(int, table[model, name][:5])
            assert (new, answered, undefined) == (cells[model], 0, 0)
            assert answers == cells[model] * samples == cells[model] * SOURCES[name].questions
    tokens = {model: {table[model, name][5] for name in chosen.benchmarks} for model in chosen.models}
    assert list(tokens.values()) == [{"1569"}, {"1296"}, {"1568"}]
    assert "Samples are the published numbers, and nothing counts as answered: results/data/paper has no data; `" in out
    assert "GPU hours are an estimate for one NVIDIA A100 80 GB" in out
    assert "| TFLOPs (exact) | GPU hours" in " ".join(out.split())
    assert "gpt-4-1106-preview 10 and 30 USD a million tokens (OpenAI's price list" in out
    assert "Judge: OpenAI announced 2026-03-26 as the last day of gpt-4-1106-preview" in out
    total = table["All", ""]
    answers = sum(sum(cells.values()) * SOURCES[name].questions for name in chosen.benchmarks)
    assert (total[0], total[4]) == (str(6 * sum(cells.values())), str(answers))


def test_without_a_compressor_it_says_where_the_run_would_stop(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_qwen2_vl(), bare, ignore=shutil.ignore_patterns("compressor-*"))
    path = write_experiment(tmp_path, bare, [{"method": "cnn", "keep": 0.5}], ("NExT-QA-MC",))
    command = ["run", path, "--profile", "paper", "--data", data, "--store", tmp_path / "runs", "--dry-run"]
    assert main([str(part) for part in command]) == 0
    out = capfd.readouterr().out
    assert "the run itself would stop at this: cnn needs a compressor of" in out
    assert rows_of(out)["bare", "NExT-QA-MC"][3] == "8564"


def test_operations_and_hours_are_sums_over_answers() -> None:
    """By hand for one benchmark: the encoder once a sample, every cell's prefill and decoding for each answer."""
    chosen = load("table3", "paper").model_copy(update={"models": [QWEN], "benchmarks": ["Video-MME"]})
    (line,) = lines(chosen, of_published(chosen, ""))
    shape = shape_of(QWEN)
    assert shape.tower is not None
    prompt = PromptSize(1296, 128, 128, 4, 4)
    vision = count(shape, method("vanilla"), 1.0, prompt).exact.vision or 0.0
    flops = 2700 * vision
    bytes_read = 0.0
    for row in chosen.rows:
        for keep in row.keep:
            one = count(shape, method(row.method, **row.fields), keep, prompt)
            flops += 2700 * (one.exact.decoder + one.exact.head + (one.exact.scoring or 0))
            if row.method == "downsample":  # which encodes an input of its own
                made = round(1296 * keep)
                flops += 2700 * (shape.tower.encoder(made, 4) + shape.tower.projector(made, 4, 3584))
            weights = 28 * (3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 18944) + 152064 * 3584
            held = sum(2 * 512 * (tokens + 128) for tokens in one.held)
            bytes_read += 2700 * 4 * 2 * (weights + held)
    assert line.flops == pytest.approx(flops, rel=0.02), "decoding 4 tokens adds little to a prefill of 1,424"
    assert line.flops > flops
    seconds = flops / (312e12 * 0.4) + bytes_read / (2.039e12 * 0.3)
    assert line.seconds == pytest.approx(seconds, rel=1e-6)


def test_a_judges_price_is_known_or_said_not_to_be() -> None:
    chosen = load("table3", "paper").model_copy(update={"models": [QWEN], "benchmarks": ["ActivityNet-QA"]})
    calls = sum(len(row.keep) for row in chosen.rows) * 8000
    (line,) = lines(chosen, of_published(chosen, ""))
    words = " ".join(["words"] * WORDS)
    asked = protocols.activitynet({"question": words, "answer": words}, "")
    tokens = (len(asked.system) + len(asked.prompt)) // BYTES_A_TOKEN + REPLY_TOKENS
    assert 250 < tokens < 600 and line.calls == calls
    assert line.dollars == pytest.approx(calls * (tokens * 0.5 + VERDICT_TOKENS * 1.5) / 1e6)
    own = JudgePrice(prompt=0, completion=2)
    for judge, dollars, said in (
        ({"model": "my-judge", "price": None}, None, "my-judge not known"),
        (
            {"model": "m", "price": own},
            calls * VERDICT_TOKENS * 2e-6,
            "m 0 and 2 USD a million tokens (the exp",
        ),
    ):
        other = chosen.judge_of("ActivityNet-QA").model_copy(update=judge)  # type: ignore[union-attr]
        chosen = chosen.model_copy(update={"judges": {"ActivityNet-QA": other}})
        (line,) = found = lines(chosen, of_published(chosen, ""))
        assert line.dollars == (dollars and pytest.approx(dollars))
        assert any(said in note for note in cost.assumptions(chosen, found))


def test_with_the_data_a_judge_is_asked_as_the_plan_says(tmp_path: Path) -> None:
    """Each model has its share of what `harness.judging.estimate` makes of the plan."""
    layouts.activitynet(tmp_path / "data")
    path = write_experiment(tmp_path, tiny_qwen2_vl(), ROWS, ("ActivityNet-QA",))
    judge = Judge(base_url="http://127.0.0.1:9/v1", model="m", price=JudgePrice(prompt=10, completion=30))
    chosen = load(path, "paper").model_copy(update={"judge": judge})
    data, store = Data(chosen, tmp_path / "data"), Store(tmp_path / "runs")
    plan = plans.make(chosen, data, store, keep=False)
    (asked,), cells = estimate(plan, data), of_plan(plan, data, store)
    (line,) = lines(chosen, cells)
    assert (line.calls, line.dollars) == (asked.calls, asked.dollars) and line.calls == 4 * 2 and asked.dollars
    twice = replace(
        cells,
        cells=[*cells.cells, *(replace(cell, model=QWEN) for cell in cells.cells)],
        judging={asked.benchmark: replace(asked, calls=16, dollars=2 * asked.dollars)},
    )
    both = lines(chosen.model_copy(update={"models": [*chosen.models, QWEN]}), twice)
    assert [(line.calls, line.dollars) for line in both] == [(8, pytest.approx(asked.dollars))] * 2


def test_no_weights_are_loaded(data: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights are loaded")

    for module in (safetensors.torch, net, hub):
        monkeypatch.setattr(module, "load_file", refuse)
    for module in (safetensors, modeling_utils):
        monkeypatch.setattr(module, "safe_open", refuse)
    monkeypatch.setattr(modeling_utils.PreTrainedModel, "from_pretrained", refuse)
    path = write_experiment(tmp_path, tiny_qwen2_vl(), ROWS, BOTH)
    command = ["run", path, "--profile", "paper", "--data", data, "--store", tmp_path / "runs"]
    status, out, err = said(*command, "--dry-run")
    assert status == 0 and re.search(r"^\| All +\|", out, re.MULTILINE), err
    with pytest.raises(AssertionError, match="weights are loaded"):
        said(*command)
