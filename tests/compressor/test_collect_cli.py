"""`retain compressor collect`: what each mistake says, with which status, and what a run tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.compressor import asking
from harness.compressor.dataset import TrainingSet
from harness.compressor.grading import Grader
from harness.models import open_model
from tests.benchmarks import layouts
from tests.compressor import published
from tests.conftest import Said
from tests.scoring.conftest import LoopbackJudge, loopback  # noqa: F401  (a fixture)
from tests.tiny import tiny_qwen2_vl


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A small collection, away from the repository's own data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asking, "open_model", lambda name, **settings: open_model(name, max_new_tokens=4, **settings))
    published.clips(tmp_path / "own.jsonl", 3)
    return ["compressor", "collect", "--model", tiny_qwen2_vl(seed=5), "--data", "own.jsonl", "--out", "out"]


def test_a_run_tells_what_it_did(
    said: Said,
    command: list[object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(Grader, "right", lambda self, sample, reply: sample.id != "own/q1")
    published.next_qa(tmp_path / "bench", videos=("0", "1234567890"), split="test")
    (tmp_path / "clips/2.mp4").write_bytes(b"no video")
    status, out, err = said(*command, "--benchmarks", "bench")
    assert status == 3
    assert "own (own.jsonl): 2 of 2 questions, wanted all" in out
    assert "1 left out: refused, their video is in a test split" in out
    assert "Test videos and pictures refused: 2 of NExT-QA" in out
    assert "out: 0 of 2 samples asked are kept, 1 failed, 1 wrong answer" in out
    assert "1 samples failed; they are asked again when the command is repeated" in err
    assert "clips/2.mp4 cannot be decoded" in err
    published.jsonl(tmp_path / "own.jsonl", [{"video": "clips/1.mp4", "question": "?", "answer": "a"}])
    status, out, _ = said(*command)
    assert status == 0  # what failed before is no part of this run
    assert "Test videos and pictures refused: none known" in out and "out: 1 of 3 samples asked are kept" in out
    assert len(TrainingSet.open(Path("out")).pairs()) == 1


def test_sources_without_a_known_test_split_are_told(
    said: Said,
    command: list[object],
    tmp_path: Path,
) -> None:
    published.next_qa(tmp_path / "data", videos=("1234567890",))
    published.activitynet(tmp_path / "data", videos=("1QIUV7WYKXg",))
    published.activitynet(tmp_path / "data", videos=("BBBBBBBBBBB",), split="test")
    command[5] = "data"
    status, out, err = said(*command, "--limit", 1)
    assert status == 0 and "Test videos and pictures refused: 1 of ActivityNet-QA" in out
    unknown = "NExT-QA, Video-MME, MVBench, MMBench-Video"
    assert f"the test splits of {unknown} lie neither in --data nor in --benchmarks: none of their videos is" in err


def test_image_benchmarks_without_known_pictures_are_told(
    said: Said, command: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Grader, "right", lambda self, sample, reply: False)
    published.jsonl(tmp_path / "pictures.jsonl", [{"image": "1.png", "question": "?", "answer": "yes"}])
    layouts.mmstar(tmp_path / "bench")
    command[5] = "pictures.jsonl"
    status, out, err = said(*command, "--benchmarks", "bench")
    assert status == 0 and "refused: 4 of MMStar" in out
    assert "the test splits of MME, MMVet, SEEDBench_IMG lie neither" in err and "none of their images is" in err
    assert "--judge exact" not in err, "a closed answer needs no judge"


def test_open_answers_without_a_judge_are_told(
    said: Said, command: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Grader, "right", lambda self, sample, reply: sample.id != "own/q1")
    rows = [{"video": "clips/3.mp4", "question": "?", "answer": "no", "id": "closed"}]
    lines = (tmp_path / "own.jsonl").read_text()
    published.jsonl(tmp_path / "own.jsonl", rows)
    (tmp_path / "own.jsonl").write_text(lines + (tmp_path / "own.jsonl").read_text())
    status, out, err = said(*command)
    assert status == 0
    assert "retain: 3 of 4 samples have open answers, of which --judge exact keeps only those" in err
    assert "open answers: 2 of 3\n" in out and "closed answers: 1 of 1\n" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--model": "nobody"}, "Unknown model 'nobody'"),
        ({"--data": "gone"}, "--data gone: there is no such file or folder"),
        ({"--mix": "sound"}, "--mix sound: allowed are video and image"),
        ({"--mix": "image"}, "--mix image: --data holds no images, only own"),
        ({"--target": "loss"}, "relevance: target='loss', allowed is"),
        ({"--head-weights": "sum"}, "relevance: head_weights='sum', allowed is"),
        ({"--judge": "gpt-4"}, "--judge gpt-4: allowed are exact and a URL"),
        ({"--judge": "http://127.0.0.1:9/v1"}, "needs --judge-model"),
        ({"--judge-model": "gpt-4"}, "--judge-model gpt-4 needs --judge with the URL"),
        (
            {"--judge": "http://127.0.0.1:9/v1", "--judge-model": "j", "--judge-key-env": "NO_SUCH_KEY"},
            "the environment variable NO_SUCH_KEY with its key is not set",
        ),
        ({"--benchmarks": "gone"}, "--benchmarks gone: there is no such folder"),
        ({"--out": "clips"}, "clips is not empty and has no dataset.json"),
    ],
)
def test_a_mistake_is_one_sentence_before_a_model_loads(
    said: Said,
    command: list[object],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    message: str,
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(asking, "open_model", opened)
    arguments = list(command)
    for name, value in changes.items():
        if name in arguments:
            arguments[arguments.index(name) + 1] = value
        else:
            arguments += [name, value]
    status, _, err = said(*arguments)
    assert status == 2 and message in err
    told = ("--judge exact keeps only", "the test splits of")  # of data that can be used
    lines = [line for line in err.splitlines() if line.startswith("retain: ")]
    assert len([line for line in lines if not any(words in line for words in told)]) == 1


def test_numbers_have_bounds(said: Said, command: list[object]) -> None:  # noqa: F811
    for name in ("--limit", "--max-visual", "--frames", "--workers"):
        status, _, err = said(*command, name, 0)
        assert status == 2 and name in err


def test_a_judge_by_its_url(
    said: Said,
    command: list[object],
    loopback: LoopbackJudge,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    loopback.reply = lambda payload: "{'pred': 'yes', 'score': 5}"
    status, out, err = said(*command, "--judge", loopback.url, "--judge-model", "j", "--judge-key-env", "")
    assert status == 0, err
    assert "out: 3 of 3 samples asked are kept" in out
    assert [request["model"] for request in loopback.requests] == ["j"] * 3
    assert (Path("out") / "judge" / "j.jsonl").read_text().count("\n") == 3


def test_it_is_listed_and_costs_nothing_to_ask_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compressor", "collect", "--help"]) == 0
    assert "--max-visual" in capsys.readouterr().out
    code = "import sys, harness.cli as c; c.main(['compressor', '--help']); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "collect" in shown.stdout and shown.stdout.rstrip().endswith("False")


def test_help_says_which_benchmarks_are_kept_apart(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compressor", "collect", "--help"]) == 0
    words = " ".join(capfd.readouterr().out.split())
    assert "whose test videos and pictures are refused (default: results/data, if there)" in words
