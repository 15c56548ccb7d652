"""MMVet: exact match of closed answers, and a judge's scores through real HTTP, by capability."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.scoring import score
from harness.scoring.mmvet_scores import exact_parts
from harness.scoring.protocols import read_correctness_score
from harness.vlmevalkit import judge_installed
from model_wrappers.errors import UserError
from tests.benchmarks import layouts
from tests.scoring.conftest import LoopbackJudge
from tests.scoring.test_scores import opened, raw


@pytest.mark.parametrize(
    ("reply", "reference"),
    [
        ("a red block", "a red block"),
        ("Red block.", "a red block"),
        ("green", "red<OR>green"),
        ("red and blue", "red<AND>blue"),
        ("blue, red", "red <AND> blue"),
        ("-5, -1.", "-1<AND>-5"),
        ("blue", "red<AND>green<OR>blue"),
        ("green & red", "red<AND>green<OR>blue"),
        ("None", "none"),
        ("007", "007"),
        ("red red", "red<AND>red"),
    ],
)
def test_all_parts_of_an_alternative(reply: str, reference: str) -> None:
    assert exact_parts(reply, reference)


@pytest.mark.parametrize(
    ("reply", "reference"),
    [
        ("red", "red<AND>blue"),
        ("red or blue", "red<AND>blue"),
        ("red, blue, green", "red<AND>blue"),
        ("red green", "red<OR>green"),
        ("reddish, blue", "red<AND>blue"),
        ("5, -1", "-1<AND>-5"),
        ("red", "red<AND>red"),
        ("7", "007"),
        ("", "red<AND>blue"),
        (",", "red<AND>"),
    ],
)
def test_parts_missing_or_too_many(reply: str, reference: str) -> None:
    assert not exact_parts(reply, reference)


@pytest.mark.parametrize(("reply", "value"), [("0.7", 0.7), (" 1.0\n", 1.0), ("0", 0.0), ("1", 1.0), (".5", 0.5)])
def test_a_verdict_is_a_number_from_0_to_1(reply: str, value: float) -> None:
    assert read_correctness_score(reply) == value


@pytest.mark.parametrize("reply", ["", "1.5", "0.7 | 1.0", "seven", "-0.1", "nan", "10", "0.5.", "1e0"])
def test_other_verdicts_are_none(reply: str) -> None:
    assert read_correctness_score(reply) is None


def rate(payload: dict[str, Any]) -> str:
    """1.0 for a prediction that is the reference, else 0.3."""
    last = payload["messages"][-1]["content"].rsplit("\n", 1)[-1].split(" | ")
    return "1.0" if len(last) == 4 and last[1] == last[2] else "0.3"


def test_mmvet_is_scored_as_the_kit_scores(
    loopback: LoopbackJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = opened("MMVet", tmp_path / "data")
    loopback.reply = rate
    replies = {"v1_0": "a red block", "v1_1": "8", "v1_2": "something", "v1_3": "7"}
    got = score(benchmark, {**replies}, judge=loopback.config(tmp_path / "judge"))
    assert got.per_sample == {"v1_0": 1.0, "v1_1": 0.3, "v1_2": 0.3, "v1_3": 1.0} == got.contributions
    assert got.headline == pytest.approx(65.0) and got.note == "judge test-judge" and got.stratum_scale == 100.0
    assert {request["max_tokens"] for request in loopback.requests} == {3}
    ours = {request["messages"][-1]["content"] for request in loopback.requests}
    loopback.requests.clear()
    monkeypatch.setenv("OPENAI_API_BASE", f"{loopback.url}/chat/completions")
    kits = raw(benchmark, replies, tmp_path, model="test-judge")
    kits = dict(zip(kits["Category"], kits["acc"], strict=True))
    assert kits.pop("Overall") == pytest.approx(got.headline)
    assert kits.pop("rec") == pytest.approx(100 * (2 * 1.0 + 0.3) / 3)  # `rec` alone counts twice there
    assert got.by_group == pytest.approx({**kits, "rec": 65.0}) and len(kits) == 5
    asked = {request["messages"][-1]["content"] for request in loopback.requests}
    assert ours <= asked and len(asked - ours) == 1  # word for word, but for its `hello`


def test_a_capability_without_a_question(tmp_path: Path) -> None:
    rows = [layouts.mmvet_row(0, "red", "rec"), layouts.mmvet_row(1, "blue", "rec,ocr")]
    benchmark = opened("MMVet", tmp_path / "data", rows)

    class One:
        fail_msg = "Failed to obtain answer via API."

        def working(self) -> bool:
            return True

        def generate(self, prompt: str, **_: Any) -> str:
            return "1.0"

    with judge_installed("vlmeval.dataset.image_vqa", One()), pytest.raises(ZeroDivisionError):
        raw(benchmark, {"v1_0": "red", "v1_1": "green"}, tmp_path, model="one")
    got = score(benchmark, {"v1_0": "red", "v1_1": "green"})
    assert got.headline == 50.0 and got.by_group == {"rec": 50.0, "ocr": 0.0} and got.note == "exact match"


def test_a_silent_judge_is_no_score_of_zero(loopback: LoopbackJudge, tmp_path: Path) -> None:
    benchmark = opened("MMVet", tmp_path / "data")
    loopback.reply = lambda payload: "it depends"
    got = score(benchmark, dict.fromkeys(benchmark.indices, "red"), judge=loopback.config(tmp_path / "judge"))
    assert got.headline is None and got.failed == 4 and got.per_sample == {}
    loopback.requests.clear()
    blank = score(benchmark, dict.fromkeys(benchmark.indices, " "), judge=loopback.config(tmp_path / "judge"))
    assert blank.headline == 0.0 and loopback.requests == []


def test_mmvet_without_a_judge_is_refused(tmp_path: Path) -> None:
    benchmark = opened("MMVet", tmp_path)
    with pytest.raises(UserError, match="scored by a judge"):
        score(benchmark, {"v1_0": "a red block"}, judge="official")


@pytest.mark.parametrize("answer", ["None", "N/A", "=1+1", "007"])
def test_answers_stay_as_they_are(answer: str, tmp_path: Path, loopback: LoopbackJudge) -> None:
    benchmark = opened("MMVet", tmp_path / "data", [layouts.mmvet_row(0, answer)])
    assert score(benchmark, {"v1_0": answer}).headline == 100.0
    loopback.reply = rate
    judged = score(benchmark, {"v1_0": answer}, judge=loopback.config(tmp_path / "judge"))
    assert judged.headline == 100.0
    assert re.search(
        rf"\| {re.escape(answer)} \| {re.escape(answer)} \| $", loopback.requests[0]["messages"][0]["content"]
    )
