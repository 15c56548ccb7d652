"""kill -9 in the middle of a real run: every earlier line stays, nothing is asked twice, the answers are the same."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from harness import sweep
from harness.experiments import load
from harness.plan import Data
from harness.store import Store
from tests.sweep.conftest import write_experiment


def lines(store: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(store.glob("cells/*/predictions.jsonl"))}


def predictions(result: sweep.SweepResult, store: Path) -> list[list[tuple[object, str | None]]]:
    return [
        [(index, answer.prediction) for index, answer in Store(store).cell(cell.settings).read().items()]
        for cell in result.cells
    ]


def test_kill_9_and_resume(tmp_path: Path, checkpoint: Path, videos: Path) -> None:
    path = write_experiment(tmp_path, checkpoint)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "harness.cli", "run", str(path), "--profile", "paper"]
    process = subprocess.Popen(
        [*command, "--data", str(videos), "--store", str(killed)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until = time.monotonic() + 240
    while sum(content.count(b"\n") for content in lines(killed).values()) < 10 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.005)
    process.kill()
    process.communicate()
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
