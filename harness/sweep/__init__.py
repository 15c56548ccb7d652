"""The answers of a whole experiment: what the store lacks of it, model by model and benchmark by benchmark.

The answers are those that VLMEvalKit's own loop gets from the same wrapper, one cell at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.experiments import Experiment
from harness.plan import Data, Plan, PlannedCell, make
from harness.store import Store, missing
from harness.sweep import driver
from harness.sweep.answering import Answerer, Failure, Tally, Timing, Unfinished, message_for, use_frames_of
from harness.sweep.cluster import Cluster, connected
from harness.sweep.memory import peak
from harness.sweep.progress import Progress
from harness.sweep.workers import WorkerError, answer, fitting

__all__ = [
    "Failure",
    "SweepResult",
    "Timing",
    "Unfinished",
    "WorkerError",
    "lacking",
    "message_for",
    "run",
    "use_frames_of",
]


@dataclass(kw_only=True)
class SweepResult(Tally):
    """What a run did, the plan it followed, and how many seconds passed, the start of the workers included."""

    plan: Plan
    seconds: float = 0.0

    @property
    def cells(self) -> list[PlannedCell]:
        """All cells of the table."""
        return self.plan.cells


def run(
    experiment: Experiment,
    store: Store,
    *,
    data: Data,
    progress: Progress | None = None,
    plan: Plan | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> SweepResult:
    """Answers what the store lacks of an experiment and returns when every sample of every cell was asked.

    A failed sample is recorded with its reason and the run goes on; it is asked again in the next run. Safe to kill at
    any moment. `workers` processes do it, 1 of them this one; by default as many as are worth it. One that dies leaves
    its model and benchmark `unfinished`. With `ray`, the workers of a cluster do it instead: `auto` for one of this
    machine alone, or an address; a shard whose worker dies is done again by another one.

    Raises UserError for what no sample could be answered with (a checkpoint or method that cannot be used), StoreError
    when the disk refuses, KeyboardInterrupt as it comes; each answer given before is kept in all cases.
    """
    plan = plan or make(experiment, data, store)
    progress = progress or Progress()
    result = SweepResult(plan=plan)
    todo = lacking(plan, store)
    total = sum(len(plan.samples[cell.benchmark]) for cell in plan.cells)
    progress.begin(total, total - sum(todo.values()))
    todo = _failed_last({group: count for group, count in todo.items() if count}, plan, store)
    start = time.perf_counter()
    if todo and ray is not None:
        with connected(ray):
            cluster = Cluster(plan, data.folder, store.pictures)
            cluster.check()
            result.add(driver.answer(plan, store, todo, cluster, progress))
    elif todo and (count := min(workers or fitting(todo), len(todo))) > 1:
        result.add(answer(plan, store, data.folder, todo, count, progress))
    elif todo:
        with Answerer(plan, store, data, progress) as answerer:
            for name, benchmark in todo:
                answerer.answer(name, benchmark, result)
        result.peaks.append(peak())
    result.seconds = time.perf_counter() - start
    return result


def lacking(plan: Plan, store: Store) -> dict[tuple[str, str], int]:
    """By model and benchmark, how many answers the store lacks; a failed sample is lacking."""
    found: dict[tuple[str, str], int] = {}
    for cell in plan.cells:
        answers = store.cell(cell.settings).read()
        key = (cell.model, cell.benchmark)
        found[key] = found.get(key, 0) + len(missing(answers, plan.samples[cell.benchmark]))
    return found


def _failed_last(todo: dict[tuple[str, str], int], plan: Plan, store: Store) -> dict[tuple[str, str], int]:
    """The groups, those last that lack nothing but samples that failed before: one that takes the device with it every
    time keeps no other group from its answers.
    """

    def failed(group: tuple[str, str]) -> bool:
        found = [(store.cell(cell.settings).read(), plan.samples[cell.benchmark]) for cell in plan.of(*group)]
        lacks = {index for answers, indices in found for index in missing(answers, indices)}
        return lacks <= {index for answers, _ in found for index, answer in answers.items() if answer.error is not None}

    return {group: todo[group] for group in sorted(todo, key=failed)}
