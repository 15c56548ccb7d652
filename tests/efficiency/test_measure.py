"""Times are taken apart where they belong, in turn, on real classes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from harness.efficiency import measure as measuring
from harness.efficiency import summary
from harness.efficiency.measure import Measurement, measure, of_model
from harness.efficiency.report import read, table
from harness.efficiency.variants import Variant
from harness.models import open_model
from harness.tables.rows import LOSS
from model_wrappers.errors import UserError
from model_wrappers.methods.base import Scorer, Vanilla
from model_wrappers.methods.fastv import FastV
from model_wrappers.registry import method_names
from tests.efficiency.conftest import TOKENS, asked

SLOW = 0.05
"""Seconds."""
calls: list[str] = []


@dataclass(frozen=True)
class Slow(Scorer):
    name: ClassVar[str] = "slow"
    called: str = "slow"

    def score(self, model: Any, prompt: Any) -> torch.Tensor:
        calls.append(self.called)
        time.sleep(SLOW)
        return torch.arange(prompt.n_visual).float()


@dataclass(frozen=True)
class SlowInside(FastV):
    name: ClassVar[str] = "slow_inside"

    def score(self, *args: Any) -> torch.Tensor:
        time.sleep(SLOW)
        return super().score(*args)


@dataclass(frozen=True)
class Refusing(Scorer):
    name: ClassVar[str] = "refusing"

    def score(self, model: Any, prompt: Any) -> torch.Tensor:
        raise UserError("refusing is not defined for what this prompt shows")


def measured(folder: Path, *methods: Any, **changes: Any) -> Measurement:
    request = asked(folder, **changes)
    found = (Variant(Vanilla(), 1.0), *(Variant(method, 0.5) for method in methods))
    return of_model(open_model(str(folder)).model, replace(request, variants=found))


def test_what_the_vision_encoder_was_asked_before_is_scoring_and_not_taken_off_the_prefill(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = measuring._encode

    def encode(*given: Any) -> Any:
        prompt = inner(*given)
        prompt.cache["vision_seconds"] = 1000.0
        return prompt

    monkeypatch.setattr(measuring, "_encode", encode)
    found = measure(asked(folders["qwen2_vl"], methods=["visionzip"], keeps=[0.5]))
    (zipped,) = [each for each in found.measured if each.variant.method.name == "visionzip"]
    assert all(one.scoring > 1000 and 0 < one.prefill < 1000 for one in zipped.rounds)


@pytest.mark.parametrize("family", list(TOKENS))
def test_every_method_on_every_family(family: str, folders: dict[str, Path]) -> None:
    found = measure(asked(folders[family], methods=[], keeps=[0.25]))
    newline = family == "llava_onevision"
    visual, layers = TOKENS[family] + newline, 6
    assert (found.n_visual, found.kernel, found.device, found.dtype) == (visual, "sdpa", "CPU", "float32")
    names = [each.variant.method.name for each in found.measured if not each.variant.eager]
    assert names == ["vanilla", *(name for name in method_names() if name != "vanilla")]
    # The bounds are there where another test has loaded them, and need what only generated scenes have.
    assert {each.variant.method.name for each in found.measured if each.lacking} <= {"oracle", "anti-oracle"}
    ran = [each for each in found.measured if each.lacking is None]
    for each in ran:
        assert len(each.rounds) == 2 and each.visual == visual and len(each.kv_visual) == layers
        assert all(min(one.vision, one.prefill, one.decode) > 0 for one in each.rounds)
        # Keys and values, two key heads of eight numbers, float32; 40 tokens of text.
        assert each.kv_bytes == sum(tokens + 40 for tokens in each.kv_visual) * 2 * 2 * 8 * 4
    (fewer,) = [each for each in ran if each.variant.method.name == "fewer_frames"]
    assert fewer.by_layer == [{"qwen2_vl": 6, "llava_onevision": 5, "vila": 16}[family]] * layers
    eager = [each.variant for each in ran if each.variant.eager]
    assert [(each.method.name, each.keep) for each in eager] == [("vanilla", 1.0), ("fastv", 0.25)]


def test_scoring_is_told_apart_and_is_inside_the_total(folders: dict[str, Path]) -> None:
    found = measured(folders["qwen2_vl"], Slow(), SlowInside(), repeats=3)
    vanilla, *slow = summary.lines(found)
    assert vanilla.scoring == 0 and vanilla.llm is not None and vanilla.llm.median == vanilla.llm.high == 1.0
    for line in slow:
        assert line.scoring is not None and SLOW <= line.scoring and line.share is not None and line.share > 0.1
        for one, base in zip(line.measured.rounds, found.measured[0].rounds, strict=True):
            assert one.scoring >= SLOW and one.llm == one.scoring + one.prefill and one.first == one.llm + one.vision
            assert one.vision == base.vision  # of the same round
    whole = vanilla.measured.tflops
    assert whole and all(line.measured.tflops and line.measured.tflops < whole for line in slow)


def test_every_variant_has_its_turn_in_every_round(folders: dict[str, Path]) -> None:
    calls.clear()
    measured(folders["qwen2_vl"], Slow("a"), Slow("b"), repeats=2)
    assert calls == ["a", "b"] * 4  # to warm up, for memory, and timed; nothing learned in one is used in the next


def test_a_method_that_is_not_defined_for_the_input_has_a_dash(folders: dict[str, Path]) -> None:
    found = measured(folders["qwen2_vl"], Refusing(), Slow())
    assert found.measured[1].lacking == "refusing is not defined for what this prompt shows"
    assert not found.measured[1].rounds and len(found.measured[2].rounds) == 2
    shown = table(summary.as_json(found))
    [row] = [line for line in shown.splitlines() if line.startswith("| refusing")]
    assert [cell.strip() for cell in row.split("|")[3:-1]] == ["-", "-", "sdpa", *["-"] * 12]
    assert "- refusing (-): refusing is not defined for what this prompt shows." in shown


def test_a_row_says_what_it_kept_and_worked_on_and_not_only_what_was_asked(folders: dict[str, Path]) -> None:
    """Of 24 tokens two from the third of six layers on; and one step of time, which has two, of twelve."""
    found = measure(asked(folders["qwen2_vl"], methods=["fastv:layer=3", "fewer_frames"], keeps=[0.1], repeats=1))
    entry = summary.as_json(found)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(entry).splitlines()]
    head, _, vanilla, fastv, fewer, *_ = [line for line in lines if len(line) > 1]
    assert head[1:4] == ["Retention", "Kept (%)", "Equivalent tokens"]
    assert (vanilla[1:4], fastv[1:4]) == (["100%", "100.0", "24.0"], ["10%", "8.3", "9.3"])  # 2 x 24 and 4 x 2 tokens
    assert fewer[1:4] == ["10%", "8.3", "2.0"]
    assert "Retention is the ratio asked for" in table(entry)


def test_a_loss_is_shown(folders: dict[str, Path]) -> None:
    found = measured(folders["qwen2_vl"], Slow())
    for one in found.measured[0].rounds:  # whatever else this machine does, vanilla shall be faster
        object.__setattr__(one, "prefill", SLOW / 10)
    [entry] = [each for each in summary.as_json(found)["variants"] if each["method"] == "slow"]
    assert entry["vanilla_over_this"]["llm"]["median"] < 1
    [row] = [line for line in table(summary.as_json(found)).splitlines() if line.startswith("| slow")]
    assert f"{entry['vanilla_over_this']['llm']['median']:.2f} [" in row and LOSS in row


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(0.5, 9000.5, "9000.5"), (8000.5, 0.5, "8000.5"), (0.5, 0.4, ""), (0.5, len(os.sched_getaffinity(0)) + 0.1, "")],
)
def test_another_load_confesses(
    before: float, after: float, said: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was there when the measurement began or when it ended."""
    loads = iter([before, after])
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    entry = summary.as_json(measured(folders["qwen2_vl"], repeats=1))
    assert (entry["machine"]["load"], entry["machine"]["load_after"]) == (before, after)
    shown = table(entry)
    assert f"(load {said} on" in shown if said else "other work to do" not in shown


def test_measurements_that_know_the_load_before_alone() -> None:
    for entry in read(Path("results/micro/efficiency.json")):
        old = {**entry, "machine": {**entry["machine"], "load": 7.25}}
        old["machine"].pop("load_after", None)
        assert "(load 7.2 on 2 cores)" in table(old) and entry["machine"]["cores"] == 2
