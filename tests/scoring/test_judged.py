"""Judged benchmarks through a real HTTP judge, and choices that a judge is asked to read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.scoring import JudgeError, protocols, score
from harness.scoring.protocols import Correctness
from tests.benchmarks import layouts
from tests.scoring.conftest import LoopbackJudge
from tests.scoring.test_scores import opened, raw


def rate(payload: dict[str, Any]) -> str:
    """3 for a candidate that is the reference, else 1; the kit's own `hello` gets an answer too."""
    found = re.search(r"Groundtruth answer: (.*)\nCandidate answer: (.*)\n", payload["messages"][-1]["content"])
    return "3" if found and found[1] == found[2] else "1"


def test_mmbench_video_is_rated_as_the_kit_rates(
    loopback: LoopbackJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = opened("MMBench-Video", tmp_path / "data")
    loopback.reply = rate
    replies = {0: "a red block", 1: "something", 2: "a red block", 3: "blue"}
    got = score(bench, {**replies}, judge=loopback.config(tmp_path / "judge"))
    assert got.headline == 2.0 and got.per_sample == {0: 1.0, 1: 1 / 3, 2: 1.0, 3: 1 / 3}
    assert got.by_group["Object Recognition"] == 3.0 and got.by_group["TR"] == 1.0 and got.note == "judge test-judge"
    ours = {_said(request) for request in loopback.requests}
    loopback.requests.clear()
    monkeypatch.setenv("OPENAI_API_BASE", f"{loopback.url}/chat/completions")
    kits = raw(bench, replies, tmp_path, model="test-judge")
    assert float(kits["coarse_all"]["Overall"]) == got.headline
    assert {_said(request) for request in loopback.requests} - {_hello(loopback)} == ours  # word for word


def _said(request: dict[str, Any]) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in request["messages"])


def _hello(loopback: LoopbackJudge) -> str:
    return next(said for request in loopback.requests if (said := _said(request)).endswith("user: hello"))


def test_a_judge_that_breaks_off_is_gone_on_with(loopback: LoopbackJudge, tmp_path: Path) -> None:
    bench = opened("MMBench-Video", tmp_path / "data")
    loopback.reply = rate
    loopback.script = [None, None, 500]
    answers: dict[int | str, str | None] = dict.fromkeys(range(4), "a red block")
    with pytest.raises(JudgeError):
        score(bench, answers, judge=loopback.config(tmp_path / "judge", workers=1, max_retries=0))
    assert len(loopback.requests) == 3
    got = score(bench, answers, judge=loopback.config(tmp_path / "judge"))
    assert got.headline == 3.0 and len(loopback.requests) == 5


@pytest.mark.parametrize("name", ["MMBench-Video", "ActivityNet-QA"])
def test_a_verdict_that_cannot_be_read_leaves_the_score_incomplete(
    name: str, loopback: LoopbackJudge, tmp_path: Path
) -> None:
    bench = opened(name, tmp_path / "data")
    loopback.reply = lambda payload: "I would rather not say"
    got = score(bench, dict.fromkeys(bench.indices, "red"), judge=loopback.config(tmp_path / "judge"))
    assert got.headline is None and got.n == 0 and got.failed == len(bench)


def test_a_blank_answer_is_wrong_and_no_judge_is_asked(loopback: LoopbackJudge, tmp_path: Path) -> None:
    bench = opened("MMBench-Video", tmp_path / "data")
    got = score(bench, dict.fromkeys(range(4), " "), judge=loopback.config(tmp_path / "judge"))
    assert got.headline == 0.0 and loopback.requests == []


def test_activitynet_judge_accuracy_and_score(loopback: LoopbackJudge, tmp_path: Path) -> None:
    bench = opened("ActivityNet-QA", tmp_path / "data", [("is it red", "yes", 3), ("what is it", "cat", 5)] * 2)
    right, wrong = "{'pred': 'yes', 'score': 5}", '{"pred": "no", "score": 1}'
    loopback.reply = lambda payload: right if "Answer: kitten" in payload["messages"][1]["content"] else wrong
    got = score(bench, {0: "yes", 1: "kitten", 2: "", 3: "kitten"}, judge=loopback.config(tmp_path / "judge"))
    assert got.headline == 50.0 and got.per_sample == {0: 0.0, 1: 1.0, 2: 0.0, 3: 1.0}
    assert got.metrics == {"mean judge score": 11 / 4, "exact match": 25.0}
    assert got.by_group == {"yes/no": 0.0, "object": 100.0, "free": 50.0}
    asked = next(request["messages"] for request in loopback.requests if "Is it red?" in str(request))
    assert asked[0]["content"].startswith("You are an intelligent chatbot designed for evaluating the correctness")
    assert "Question: Is it red?\nCorrect Answer: yes\nPredicted Answer: yes\n" in asked[1]["content"]
    assert len(loopback.requests) == 2  # the two kittens are one question


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("{'pred': 'yes', 'score': 4}", Correctness(True, 4.0)),
        ('{"pred": "No", "score": 0}', Correctness(False, 0.0)),
        ("```python\n{'pred': 'yes', 'score': 4.8}\n```", Correctness(True, 4.8)),
        ("{'pred': 'maybe', 'score': 4}", None),
        ("{'pred': 'yes', 'score': '4'}", None),
        ("{'pred': 'yes', 'score': True}", None),
        ("{'pred': 'yes', 'score': 9}", None),
        ("{'pred': 'yes'}", None),
        ("{pred: yes}", None),
        ("yes, 4", None),
        ("{'pred'}", None),
    ],
)
def test_reading_a_verdict_of_correctness(reply: str, verdict: Correctness | None) -> None:
    assert protocols.read_correctness(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "rating"), [("2", 2), (" 3. ", 3), ("0", 0), ("4", None), ("2/3", None), ("two", None)]
)
def test_reading_a_rating(reply: str, rating: int | None) -> None:
    assert protocols.read_rating(reply) == rating


def test_a_judge_reads_the_option_that_an_unclear_reply_means(loopback: LoopbackJudge, tmp_path: Path) -> None:
    bench = opened("NExT-QA-MC", tmp_path / "data", [layouts.next_row(i, 1) for i in range(4)])

    def reply(payload: dict[str, Any]) -> str:
        said = payload["messages"][0]["content"].split("Answer: ")[-1]
        return {"emerald": "B", "Spider": "Z", "unclear": "either"}[said.split("\n")[0]]

    loopback.reply = reply
    got = score(bench, {0: "emerald", 1: "Spider", 2: "B", 3: ""}, judge=loopback.config(tmp_path / "judge"))
    assert got.per_sample == {0: 1.0, 1: 0.0, 2: 1.0, 3: 0.0} and got.unparsed == 2
    assert "test-judge" in got.note and len(loopback.requests) == 2
    assert "B. green\n" in loopback.requests[0]["messages"][0]["content"]
    incomplete = score(bench, {0: "emerald", 1: "unclear"}, judge=loopback.config(tmp_path / "judge"))
    assert incomplete.headline is None and incomplete.n == 1 and incomplete.failed == 1


def test_a_judge_that_says_none_makes_a_wrong_answer(loopback: LoopbackJudge, tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path / "data")
    loopback.reply = lambda payload: "Z"
    got = score(bench, dict.fromkeys(range(4), "hard to say"), judge=loopback.config(tmp_path / "judge"))
    assert got.headline == 0.0 and got.unparsed == 4
    asked = loopback.requests[0]["messages"][0]["content"]
    assert asked.startswith("You are an AI assistant who will help me to match")
