"""How answering on a Ray cluster grows: real workers on this machine's cores, and the driver's own load.

The load is that of simulated GPUs, which answer after a fixed sleep and tell it as real workers do: the same shards,
messages and answers, kept in a store on disk. They are coroutines of one process, so that 64 of them fit anywhere; the
driver sees 64 workers that each tell it their answers once a second.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression
from typing import Any, cast

from harness import plan as plans
from harness.bench.machine import say
from harness.experiments import Experiment
from harness.plan import Data, Plan
from harness.store import Answer, Store
from harness.sweep import driver, lacking
from harness.sweep.answering import Tally
from harness.sweep.cluster import AUTO, Cluster, connected
from harness.sweep.progress import Progress
from harness.sweep.remote import TELL_SECONDS, Done, Message
from harness.sweep.shards import Shard

WORKERS = (1, 2)
SAMPLES = 40
"""Of each benchmark, for the real workers."""
GPUS = (1, 8, 64)
PER_SECOND = 10
"""Answers a second of a simulated GPU."""
SECONDS = 30
"""How long the simulated GPUs are busy."""


@dataclass
class Scaling:
    """Answers a second by the number of workers and of simulated GPUs (`ideal`: if the driver were no work), and the
    share (0 to 1) of one core that the driver's process took meanwhile.
    """

    workers: dict[int, float] = field(default_factory=dict)
    gpus: dict[int, float] = field(default_factory=dict)
    ideal: dict[int, float] = field(default_factory=dict)
    driver_cpu: dict[int, float] = field(default_factory=dict)


class Simulated:
    """Many GPUs in one process."""

    async def ready(self) -> Message:
        """At once."""
        return "ready", None

    async def answer(self, shard: Shard) -> AsyncIterator[Message]:
        """As `harness.sweep.remote.Worker.answer`, but each answer is a sleep."""
        answers: list[tuple[str, Answer]] = []
        told = due = time.monotonic()
        for index, cells in shard.wanted.items():
            due += len(cells) / PER_SECOND
            await asyncio.sleep(due - time.monotonic())
            given = Answer(index, "B", None, 1296, 324, [1296] * 3 + [324] * 25, 0.25, 0.0123, 0.1)
            answers += [(cell, given) for cell in cells]
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                yield "answers", (answers, Tally(answered=len(answers)))
                answers = []
        yield "answers", (answers, Tally(answered=len(answers)))
        yield "done", Done(0, 0.0)


class _Simulation:
    """A cluster of so many simulated GPUs."""

    def __init__(self, count: int) -> None:
        import ray

        self.count = count
        actor = cast(Any, ray.remote(num_cpus=1)(Simulated))
        self.process = actor.options(max_concurrency=1000).remote()
        ray.get(self.process.ready.remote())

    def capacity(self) -> int:
        return self.count

    def hire(self) -> Any:
        return self.process

    def dismiss(self, handle: Any) -> None:
        """They share a process."""


class _Started(Cluster):
    """A cluster of so many workers, all of them started before the first is dealt a shard."""

    def __init__(self, plan: Plan, data: Path, count: int) -> None:
        import ray

        super().__init__(plan, data)
        self.count, self.waiting = count, [super(_Started, self).hire() for _ in range(count)]
        ray.get([handle.ready.remote() for handle in self.waiting])

    def capacity(self) -> int:
        return self.count

    def hire(self) -> Any:
        return self.waiting.pop()


class _Clock(Progress):
    """When each answer was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def advance(self, failed: bool = False) -> None:
        super().advance(failed)
        self.times.append(time.perf_counter())


def measure(experiment: Experiment, data: Path, samples: int) -> Scaling:
    """Answers the first model's first `samples` samples of every benchmark with 1 and 2 workers, then simulates.

    Raises UserError for data or models that cannot be used, or without Ray.
    """
    found = Scaling()
    one = experiment.model_copy(update={"models": experiment.models[:1], "max_samples": samples})
    opened = Data(one, data)
    with tempfile.TemporaryDirectory(prefix="retain-bench-") as folder, connected(AUTO):
        plan = plans.make(one, opened, Store(Path(folder)))
        for count in WORKERS:
            say(f"{count} workers on a Ray cluster")
            started = _Started(plan, data, count)
            found.workers[count], _ = _run(plan, Store(Path(folder) / f"workers{count}"), started)
        for count in GPUS:
            say(f"the driver with {count} simulated GPUs")
            each = -(-count * PER_SECOND * SECONDS // len(plan.cells))
            long = dataclasses.replace(plan, samples={name: list(range(each)) for name in plan.samples})
            store = Store(Path(folder) / f"gpus{count}")
            found.gpus[count], found.driver_cpu[count] = _run(long, store, _Simulation(count))
            found.ideal[count] = float(count * PER_SECOND)
    return found


def rows(found: Scaling) -> Sequence[list[str]]:
    """The measurements, as lines of the report."""
    one = found.workers[min(found.workers)]
    return [
        *([f"Ray, {n} workers", f"{rate:.1f} answers/s, {rate / one:.2f} x"] for n, rate in found.workers.items()),
        *(
            [
                f"Ray, {n} simulated GPUs at {PER_SECOND} answers/s",
                f"{rate:.1f} answers/s, {rate / found.ideal[n]:.0%}; driver {found.driver_cpu[n]:.0%} of a core",
            ]
            for n, rate in found.gpus.items()
        ),
    ]


def _run(plan: Plan, store: Store, cluster: driver.Cluster) -> tuple[float, float]:
    """Answers a second in the middle half of them (where nothing is opened and no worker is without work), as the slope
    of a line through them, since they come in bursts; and the share of a core that the driver took from the first shard
    to the last answer.
    """
    todo, clock = lacking(plan, store), _Clock()
    start, cpu = time.perf_counter(), time.process_time()
    driver.answer(plan, store, todo, cluster, clock)
    busy = (time.process_time() - cpu) / (time.perf_counter() - start)
    count = len(clock.times)
    first, last = count // 4, count - 1 - count // 4
    return linear_regression(clock.times[first : last + 1], range(first, last + 1)).slope, busy
