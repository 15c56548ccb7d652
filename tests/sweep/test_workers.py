"""Several processes answer as one does, and a dead, failing or interrupted one costs nothing that was answered."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import plan as plans
from harness import sweep
from harness.experiments import Experiment, load
from harness.plan import Data
from harness.store import Store
from harness.sweep import memory, workers
from harness.sweep.progress import Progress
from model_wrappers.errors import UserError
from tests.sweep.conftest import write_experiment
from tests.sweep.test_kill import lines, predictions

pytestmark = pytest.mark.long

Make = Callable[..., Experiment]
ANSWERS = 48
"""2 benchmarks of 4 samples, 6 cells each."""
GIB = 1 << 30


def run(experiment: Experiment, data: Path, store: Path, **options: Any) -> sweep.SweepResult:
    return sweep.run(experiment, Store(store), data=Data(experiment, data), **options)


class Killer(Progress):
    """Kills a worker, given its number, as soon as any worker has answered."""

    def __init__(self, victims: list[workers._Worker]) -> None:
        super().__init__()
        self.victims = victims

    def advance(self, failed: bool = False) -> None:
        super().advance(failed)
        if self.fresh == 1:
            pid = self.victims[0].process.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("warm_workers")
def test_workers_answer_as_one_process_does_and_the_death_of_one_leaves_the_rest(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, store = experiment(), tmp_path / "killed"
    crew: list[workers._Worker] = []
    start = workers._Crew.start

    def watched(self: workers._Crew) -> None:
        start(self)
        crew.append(self.workers[-1])

    monkeypatch.setattr(workers._Crew, "start", watched)
    result = run(chosen, videos, store, workers=2, progress=Killer(crew))
    (left,) = result.unfinished
    assert (left.model, left.benchmark) == (chosen.models[0], "NExT-QA-MC"), "what the first worker was dealt"
    assert left.reason == "the process that answered it was killed (SIGKILL)"
    survivors = [cell for cell in result.cells if cell.benchmark == "MVBench"]
    assert all(len(Store(store).cell(cell.settings).read()) == 4 for cell in survivors), "the other one went on"
    assert result.answered == 24 and not any(worker.process.is_alive() for worker in crew)
    parts = result.timing.decode + result.timing.encode + result.timing.answer
    assert 0 < parts <= result.timing.wall <= 2 * result.seconds
    (peak,) = result.peaks
    assert GIB / 4 < peak < 3 * GIB

    before = lines(store)
    progress = Progress()
    resumed = run(chosen, videos, store, workers=2, progress=progress)
    assert resumed.unfinished == [] and resumed.answered == progress.fresh == ANSWERS - progress.done
    assert all(content.startswith(before.get(name, b"")) for name, content in lines(store).items())
    alone = run(chosen, videos, tmp_path / "alone", workers=1)
    assert predictions(resumed, store) == predictions(alone, tmp_path / "alone")


@pytest.mark.usefixtures("warm_workers")
def test_what_a_worker_cannot_use_is_the_parents_mistake_too(experiment: Make, videos: Path, tmp_path: Path) -> None:
    rows = [{"method": "vanilla"}, {"method": "fastv", "fields": {"layer": 9}, "keep": [0.5]}]
    chosen = experiment(rows=rows)
    with pytest.raises(UserError, match=r"^fastv: layer=9, but the model has 6 layers"):
        alone(chosen, videos, tmp_path)
    assert lines(tmp_path) == {}


@pytest.mark.usefixtures("warm_workers")
def test_a_fault_of_the_code_comes_with_the_workers_own_traceback(
    experiment: Make, videos: Path, tmp_path: Path
) -> None:
    with pytest.raises(workers.WorkerError, match=r"(?s)Traceback .*sweep.answering.py.*KeyError: 'NExT-QA-MC'"):
        alone(experiment(), videos, tmp_path, samples={})


def alone(experiment: Experiment, data: Path, store: Path, **changes: Any) -> None:
    """A single process that is not this one answers the first group."""
    plan = dataclasses.replace(plans.make(experiment, Data(experiment, data), Store(store)), **changes)
    todo = {(experiment.models[0], experiment.benchmarks[0]): 4}
    workers.answer(plan, Store(store), data, todo, 1, Progress())


def test_interrupted_from_the_keyboard(tmp_path: Path, checkpoint: Path, videos: Path) -> None:
    """SIGINT goes to the whole group of processes, as a terminal sends it."""
    path = write_experiment(tmp_path, checkpoint)
    store = tmp_path / "runs"
    command = [sys.executable, "-m", "harness.cli", "run", str(path), "--profile", "paper", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--data", str(videos), "--store", str(store), "--no-score"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until = time.monotonic() + 240
    while not any(lines(store).values()) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err and err.count(b"stopped; every answer given so far is kept") == 1, err.decode()
    answered = sum(content.count(b"\n") for content in lines(store).values())
    assert 0 < answered < ANSWERS
    experiment = load(path, "paper")
    assert run(experiment, videos, store, workers=1).answered == ANSWERS - answered


def test_how_many_are_worth_it(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(memory, "available", lambda: 100 * GIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    name = str(checkpoint)
    todo = {(name, str(benchmark)): 2000 for benchmark in range(6)}
    assert workers.fitting(todo) == 6, "groups"
    assert workers.fitting({**todo, ("Qwen2-VL-7B-Instruct", "a"): 2000}) == 1, "of unknown size"
    monkeypatch.setattr(memory, "available", lambda: 10 * GIB)
    assert workers.fitting(todo) == 3, "memory"
    monkeypatch.setattr(memory, "available", lambda: GIB)
    assert workers.fitting(todo) == 1
    monkeypatch.setattr(memory, "available", lambda: 100 * GIB)
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert workers.fitting(todo) == 2, "cores"
    assert workers.fitting(dict.fromkeys(todo, 9)) == 1, "a handful"


def test_memory_is_that_of_this_process_alone() -> None:
    code = "from harness.sweep import memory; print(memory.peak()); x = bytearray(200 << 20); print(memory.peak())"
    ballast = bytearray(300 << 20)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    small, large = (int(number) for number in out)
    assert small < len(ballast) and 200 << 20 <= large - small < 210 << 20
    assert memory.peak() > len(ballast)


def test_the_memory_that_is_left_minds_a_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.available()
    assert free > 0
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    assert memory.available() == min(free, 2000000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > 2000000
