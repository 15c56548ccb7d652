"""Several processes that answer one experiment together, each with a model of its own and one thread.

Groups, which are one (model, benchmark) each, share no cell, so no two processes write one file. The parent deals the
groups out, counts, and shows the progress; it needs neither torch nor vlmeval for it. A worker that dies leaves its
group unfinished and the others go on; every answer that it gave is in the store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.plan import Data, Plan
from harness.store import Store
from harness.sweep import memory
from harness.sweep.answering import Answerer, Tally, Unfinished
from harness.sweep.process import fate, interrupts_ignored, stop, telling
from harness.sweep.progress import Progress

Group = tuple[str, str]
"""A model and a benchmark."""

WORKER_MEMORY = 3 << 30
"""Bytes that a worker may need beside its model's weights; torch and VLMEvalKit alone take 1.2 GB."""
HANDFUL = 2000
"""Answers below which a second process costs more (it imports VLMEvalKit for itself) than it saves."""


class WorkerError(RuntimeError):
    """A worker met an error that is neither a user's mistake nor one sample's. Its text is the worker's traceback."""


def fitting(todo: dict[Group, int]) -> int:
    """How many processes are worth it for so many lacking answers by group.

    One where a GPU does the work, for a handful of answers, or where a model comes from the hub, whose size nobody
    knows yet; else as many as there are cores, groups, and memory for.
    """
    from harness.models import model_info

    folders = [Path(model_info(model).path_or_hub_id) for model, _ in todo]
    gpu = any(Path("/dev").glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    if gpu or sum(todo.values()) < HANDFUL or not all(folder.is_dir() for folder in folders):
        return 1
    each = WORKER_MEMORY + max(memory.weights(folder) for folder in set(folders))
    return max(1, min(cores(), len(todo), memory.available() // each))


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answer(plan: Plan, store: Store, data: Path, todo: dict[Group, int], count: int, progress: Progress) -> Tally:
    """Answers the groups of `todo` (with their number of lacking answers) with `count` processes.

    Raises what a worker raised: UserError for what cannot be used (a checkpoint, a method, a full disk); WorkerError
    for a fault of the code; KeyboardInterrupt as it comes. No worker is left when it returns or raises.
    """
    progress.at(f"starting {count} workers")
    crew = _Crew(plan, store, data, todo, progress)
    try:
        for _ in range(count):
            crew.start()
        while crew.busy:
            for pipe in wait(list(crew.busy)):
                crew.hear(crew.busy[pipe])  # type: ignore[index]
        return crew.finished()
    finally:
        crew.stop()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    model: str = ""
    """The one it has open."""
    group: Group | None = None
    peak: int = 0


class _Crew:
    """The workers as their parent sees them. Each has a pipe of its own: a killed one can damage nobody else's."""

    def __init__(self, plan: Plan, store: Store, data: Path, todo: dict[Group, int], progress: Progress) -> None:
        self.given = (plan, store.root, data)
        self.todo, self.progress = todo, progress
        self.pending = sorted(todo, key=lambda group: -todo[group])  # the longest first: the end is not one long group
        self.workers: list[_Worker] = []
        self.tally = Tally()

    @property
    def busy(self) -> dict[Connection, _Worker]:
        """The workers that have a group, by their pipes."""
        return {worker.pipe: worker for worker in self.workers if worker.group}

    def start(self) -> None:
        """One more worker, with a group to answer."""
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=work, args=(theirs, *self.given), daemon=True)
        with interrupts_ignored():
            process.start()
        theirs.close()  # so that the pipe ends when the worker does
        worker = _Worker(process, ours)
        self.workers.append(worker)
        self._deal(worker)

    def hear(self, worker: _Worker) -> None:
        """Takes one message of a worker, or notes its death."""
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        if kind == "answer":
            self.progress.advance(failed=content)
        elif kind in ("done", "lost"):
            tally, worker.peak = content
            self.tally.add(tally)
            if kind == "done":
                self._deal(worker)
            else:  # it ends by itself; the others go on
                worker.group = None
        elif kind == "mistake":
            raise content
        else:
            raise WorkerError(content)

    def finished(self) -> Tally:
        """What all of them did, in the order of the table."""
        for group in self.pending:  # the last worker died before it came to these
            self.tally.unfinished.append(Unfinished(*group, "no worker was left to answer it"))
        place = {group: number for number, group in enumerate(self.todo)}
        for each in (self.tally.failures, self.tally.unfinished):
            each.sort(key=lambda told: place[told.model, told.benchmark])
        self.tally.peaks = [worker.peak for worker in self.workers if worker.peak]
        return self.tally

    def stop(self) -> None:
        """Ends every worker: those that wait end by themselves, the others between two answers or in one."""
        for worker in self.workers:
            if worker.group:
                worker.process.terminate()
            worker.pipe.close()
        for worker in self.workers:
            stop(worker.process)

    def _deal(self, worker: _Worker) -> None:
        """The longest group left, of the model that the worker has open if there is one."""
        worker.group = max(self.pending, key=lambda group: group[0] == worker.model, default=None)
        if worker.group is None:
            return
        self.pending.remove(worker.group)
        worker.model = worker.group[0]
        try:
            worker.pipe.send(worker.group)
        except OSError:
            self._lost(worker)
        first, *others = (" ".join(each.group) for each in self.busy.values() if each.group)
        self.progress.at(first + (f", {len(others)} more" if others else ""))

    def _lost(self, worker: _Worker) -> None:
        assert worker.group
        self.tally.unfinished.append(Unfinished(*worker.group, f"the process that answered it {fate(worker.process)}"))
        worker.group = None


class _Told(Progress):
    """A worker's progress is told to its parent."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def advance(self, failed: bool = False) -> None:
        self.pipe.send(("answer", failed))


def work(pipe: Connection, plan: Plan, store: Path, data: Path) -> None:
    """What a worker does from its start to its end: one group after the other, as its parent deals them."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded
    with telling(pipe):
        import torch

        torch.set_num_threads(1)
        if plan.experiment.data == "micro":
            import harness.micro

            harness.micro.register()
        kept = Store(store)
        with Answerer(plan, kept, Data(plan.experiment, data, kept.pictures), _Told(pipe)) as answerer:
            while True:
                model, benchmark = pipe.recv()
                tally = Tally()
                answerer.answer(model, benchmark, tally)
                pipe.send(("lost" if answerer.lost else "done", (tally, memory.peak())))
                if answerer.lost:
                    return
