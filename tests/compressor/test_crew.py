"""Collecting in several processes, and processes that end suddenly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from harness.compressor import asking, collect, crew
from harness.compressor.dataset import TrainingSet
from harness.sweep.workers import WorkerError
from model_wrappers.errors import UserError
from tests.compressor import doomed, published
from tests.compressor.test_collect import replies, run
from tests.conftest import Said
from tests.faults.command import Run
from tests.tiny import tiny_qwen2_vl


@pytest.fixture(scope="session")
def qwen() -> Path:
    return tiny_qwen2_vl(seed=5)


def lines(out: Path) -> int:
    file = out / "samples.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_stopped_it_goes_on_where_it_was(tmp_path: Path, qwen: Path, said: Said) -> None:
    """Ctrl-C, then a kill, then to the end: every line of before stays, none is there twice."""
    path, out = published.clips(tmp_path / "own.jsonl", 24), tmp_path / "out"
    command = ["compressor", "collect", "--model", qwen, "--data", path, "--out", out]
    for how, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before, enough = (out / "samples.jsonl").read_bytes() if lines(out) else b"", lines(out) + 2
        process = Run(command, tmp_path / f"log-{how.name}")
        process.wait_until(lambda enough=enough: lines(out) >= enough)  # type: ignore[misc]
        os.kill(process.pid, how)
        assert process.wait(120) == status, process.log.read_text()
        assert enough <= lines(out) < 24 and (out / "samples.jsonl").read_bytes().startswith(before)
        if how == signal.SIGINT:
            told = process.log.read_text()
            assert "stopped; every answer given so far is kept. Go on with: retain compressor collect" in told
    before = (out / "samples.jsonl").read_bytes()
    there = lines(out)
    status, _, err = said(*command)
    assert status == 0, err
    assert f"24 answers, {there} of them there already" in err
    after = (out / "samples.jsonl").read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    ids = [json.loads(line)["id"] for line in after.splitlines()]
    assert len(ids) == len(set(ids)) == 24


@pytest.mark.usefixtures("warm_workers")
def test_two_processes_collect_what_one_does(tmp_path: Path, qwen: Path) -> None:
    path = published.clips(tmp_path / "own.jsonl", 4)
    said = replies(qwen, path, tmp_path / "first")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    published.jsonl(path, [{**row, "answer": said[f"own/{row['id']}"]} for row in rows[:3]] + rows[3:])
    one, two = run(qwen, path, tmp_path / "one"), run(qwen, path, tmp_path / "two", workers=2)
    assert one.counts == two.counts == {"asked": 4, "kept": 3, "wrong answer": 1}
    assert TrainingSet.open(tmp_path / "one").records == TrainingSet.open(tmp_path / "two").records
    for alone, together in zip(*(TrainingSet.open(tmp_path / name).pairs() for name in ("one", "two")), strict=True):
        torch.testing.assert_close(alone.relevance, together.relevance)
        torch.testing.assert_close(alone.attention, together.attention)


def test_a_process_that_is_killed_loses_only_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "work", doomed.killed)
    taken: list[str] = []
    lost = crew.ask(cast(Any, None), cast(Any, list("abcde")), 2, lambda outcome: taken.append(outcome.record["id"]))
    assert sorted(taken) == ["a", "b"]
    assert sorted(lost) == [f"a process was killed (SIGKILL); {left} samples of it are not asked" for left in (1, 2)]


@pytest.mark.parametrize(
    ("gpus", "workers", "wanted"),
    [
        (2, None, {"a": "cuda:0", "b": "cuda:1", "c": "cuda:0", "d": "cuda:1", "e": "cuda:0"}),
        (2, 3, {"a": "cuda:0", "b": "cuda:1", "c": "cuda:0", "d": "cuda:0", "e": "cuda:1"}),
        (0, 2, dict.fromkeys("abcde")),
    ],
)
def test_processes_are_one_a_gpu_and_share_where_there_are_more(
    gpus: int, workers: int | None, wanted: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(crew, "work", doomed.echoing)
    job, progress = SimpleNamespace(model="m"), cast(Any, SimpleNamespace(at=lambda _: None))
    devices: dict[str, str | None] = {}

    def take(outcome: asking.Outcome) -> None:
        devices[outcome.record["id"]] = outcome.record["device"]

    assert collect._ask(job, cast(Any, list("abcde")), workers, take, progress) == []
    assert devices == wanted


def test_without_a_gpu_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with one GPU neither: this process is the one."""
    opened: list[Any] = []

    class Asker:
        def __init__(self, *given: Any) -> None:
            opened.append(given)

        def __enter__(self) -> Asker:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def outcomes(self, samples: list[str]) -> list[str]:
            return samples

    monkeypatch.setattr(asking, "Asker", Asker)
    monkeypatch.setattr(crew, "ask", lambda *_: pytest.fail("started"))
    job, progress = SimpleNamespace(model="m"), cast(Any, SimpleNamespace(at=lambda _: None))
    for gpus in (0, 1):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        taken: list[Any] = []
        collect._ask(job, cast(Any, list("abc")), None, taken.append, progress)
        assert taken == list("abc")
    assert opened == [(job,)] * 2


def test_what_a_process_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "work", doomed.mistaken)
    with pytest.raises(UserError, match="No checkpoint folder m"):
        crew.ask(cast(Any, None), cast(Any, ["a", "b"]), 2, lambda outcome: None)
    monkeypatch.setattr(crew, "work", doomed.faulty)
    with pytest.raises(WorkerError, match="Traceback: here"):
        crew.ask(cast(Any, None), cast(Any, ["a", "b"]), 2, lambda outcome: None)
