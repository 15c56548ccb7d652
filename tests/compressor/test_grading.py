"""Which answers count as right, and which of them a judge is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.compressor.grading import Grader
from harness.compressor.sources import Media, Sample
from tests.scoring.conftest import LoopbackJudge, loopback  # noqa: F401  (a fixture)


def sample(answer: str, options: tuple[str, ...] = ()) -> Sample:
    return Sample("own/1", "own", "g", "image", Media(Path("a.png")), "What is it?", "What is it?", answer, options)


@pytest.mark.parametrize(
    ("answer", "options", "reply", "expected"),
    [
        ("B", ("a dog", "a cat"), "B", True),
        ("B", ("a dog", "a cat"), "B. a cat", True),
        ("B", ("a dog", "a cat"), "a cat", True),
        ("B", ("a dog", "a cat"), "A", False),
        ("B", ("a dog", "a cat"), "Both", False),
        ("B", ("a dog", "a cat"), "", False),
        ("Yes.", (), "Yes, it is.", True),
        ("no", (), "No", True),
        ("yes", (), "Not sure", False),
        ("a red bar", (), "Red bar.", True),
        ("red", (), "crimson", False),
        ("red", (), "", False),
    ],
)
def test_closed_answers(answer: str, options: tuple[str, ...], reply: str, expected: bool) -> None:
    assert Grader(None).right(sample(answer, options), reply) is expected


def test_the_judge_is_asked_of_open_answers_only(tmp_path: Path, loopback: LoopbackJudge) -> None:  # noqa: F811
    loopback.reply = lambda payload: "{'pred': '%s', 'score': 4}" % ("yes" if "crimson" in str(payload) else "no")
    grader = Grader(loopback.config(tmp_path))
    assert grader.right(sample("B", ("a", "b")), "A") is False
    assert grader.right(sample("yes"), "maybe") is False
    assert grader.right(sample("red"), "Red.") is True
    assert grader.right(sample("red"), " ") is False
    assert loopback.requests == []
    assert grader.right(sample("red"), "crimson") is True
    assert grader.right(sample("red"), "blue") is False
    assert len(loopback.requests) == 2 and "Correct Answer: red" in str(loopback.requests[0])
    loopback.reply = lambda payload: "I cannot say"
    assert grader.right(sample("red"), "green") is None
