"""kill -9 in the middle of a real run with two workers: they end too, every line stays, nothing is asked twice, and
the answers are the same.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import sweep
from harness.experiments import load
from harness.plan import Data
from harness.store import Store
from tests.sweep.conftest import write_experiment

pytestmark = pytest.mark.long


def lines(store: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(store.glob("cells/*/predictions.jsonl"))}


def predictions(result: sweep.SweepResult, store: Path) -> list[list[tuple[object, str | None]]]:
    return [
        [(index, answer.prediction) for index, answer in Store(store).cell(cell.settings).read().items()]
        for cell in result.cells
    ]


def locked(store: Path) -> bool:
    """Whether some process still has a cell open."""
    for path in store.glob("cells/*/predictions.jsonl"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def children(parent: int) -> list[int]:
    """The processes that a process started, of all its threads."""
    lists = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_kill_9_and_resume(tmp_path: Path, checkpoint: Path, videos: Path) -> None:
    path = write_experiment(tmp_path, checkpoint, max_new_tokens=30)  # slow enough to be met in its middle
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "harness.cli", "run", str(path), "--profile", "paper", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--data", str(videos), "--store", str(killed)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until = time.monotonic() + 240
    while sum(content.count(b"\n") for content in lines(killed).values()) < 10 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.005)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(alive, workers)), "the workers were to end with their parent"
    assert not locked(killed)
    before = lines(killed)
    answered = sum(content.count(b"\n") for content in before.values())
    assert 10 <= answered < 48, "the run was to be killed in its middle"

    experiment = load(path, "paper")
    resumed = sweep.run(experiment, Store(killed), data=Data(experiment, videos))
    after = lines(killed)
    assert resumed.answered == 48 - answered
    for name, content in before.items():
        assert after[name].startswith(content[: content.rfind(b"\n") + 1])
    assert all(content.count(b"\n") == 4 and content.endswith(b"\n") for content in after.values())
    uninterrupted = sweep.run(experiment, Store(whole), data=Data(experiment, videos))
    assert predictions(resumed, killed) == predictions(uninterrupted, whole)
