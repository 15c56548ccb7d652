"""The driver of a Ray cluster without one: what its work costs, and what it says of nodes that lack something."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import plan as plans
from harness.experiments import Experiment
from harness.plan import Data, Plan
from harness.store import Answer, Store
from harness.sweep import driver
from harness.sweep.answering import Tally
from harness.sweep.ledger import Ledger
from harness.sweep.progress import Progress
from harness.sweep.shards import Shard
from model_wrappers.errors import UserError

Make = Callable[..., Experiment]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: vlm-retain[ray]")
SAMPLES = 834
"""Of 6 cells each: 5,004 answers."""


@pytest.fixture
def plan(experiment: Make, videos: Path, tmp_path: Path) -> Plan:
    chosen = experiment(benchmarks=("MVBench",))
    made = plans.make(chosen, Data(chosen, videos), Store(tmp_path / "runs"))
    return dataclasses.replace(made, samples={"MVBench": list(range(SAMPLES))})


def test_keeping_an_answer_is_one_write(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 GPUs at 10 answers a second leave the driver 1.5 ms an answer. Measured: 0.09 ms of CPU."""
    store, calls = Store(tmp_path / "runs"), Counter[str]()
    group = (plan.experiment.models[0], "MVBench")
    with Ledger(plan, store) as ledger:
        crew = driver._Crew(ledger, {group: 6 * SAMPLES}, SimpleNamespace(), Progress())  # type: ignore[arg-type]
        wanted = ledger.open(group)
        cells = {cell for sample in wanted.values() for cell in sample}
        assert len(cells) == 6 and len(wanted) == SAMPLES
        worker = driver._Worker(None, None, Shard(*group, dict(wanted)))
        for name in ("write", "fsync", "open", "stat"):
            monkeypatch.setattr(os, name, counted(getattr(os, name), name, calls))
        monkeypatch.setattr("harness.journal.SYNC_SECONDS", 3600)
        start = time.process_time()
        for index in range(SAMPLES):
            given = Answer(index, "B", None, 1296, 324, [1296] * 3 + [324] * 25, 0.25, 0.0123, 0.1)
            crew._keep(worker, [(cell, given) for cell in cells], Tally(answered=6))
        seconds = time.process_time() - start
        monkeypatch.undo()
    assert calls == {"write": 6 * SAMPLES}
    assert seconds / (6 * SAMPLES) < 1e-3, "of CPU, whatever else this machine does"
    assert worker.shard is not None and worker.shard.wanted == {}
    assert [len(store.cell(cell.settings).read()) for cell in plan.cells] == [SAMPLES] * 6


def counted(real: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        calls[name] += 1
        return real(*given, **named)

    return call


@needs_ray
def test_a_node_without_this_package_is_told(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    # As ray._private.function_manager words it, and ray.exceptions.RayTaskError around it.
    cause = RuntimeError(
        "The actor with name Worker failed to import on the worker. This may be because needed library dependencies "
        "are not installed in the worker environment:\n\nTraceback (most recent call last):\n"
        '  File "function_manager.py", line 747, in _load_actor_class_from_gcs\n'
        "    actor_class = pickle.loads(pickled_class)\nModuleNotFoundError: No module named 'harness'\n"
    )
    told = f"ray::Worker.ready() (pid=7, ip=10.0.0.7, actor_id=0a)\nRuntimeError: {cause}"
    error = ray.exceptions.RayTaskError("ready", told, cause, pid=7, ip="10.0.0.7").as_instanceof_cause()

    def get(_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with Ledger(plan, Store(tmp_path / "runs")) as ledger:
        crew = driver._Crew(ledger, {}, SimpleNamespace(), Progress())  # type: ignore[arg-type]
        with pytest.raises(UserError) as raised:
            crew._hear(driver._Worker(None, "its first message"))
    assert str(raised.value) == (
        "the Ray node 10.0.0.7 lacks vlm-retain or what it needs (ModuleNotFoundError: No module named 'harness'); "
        "install the same version there as here"
    )
