"""A cluster's workers as the driver sees them: it deals shards, keeps what they answer, and makes good for the dead.

A worker that dies loses what it has not told yet, a second's worth; the rest of its shard goes to another one. Only
what is received is in the store, once, so that a run that was killed goes on from there. The sample at which a worker
lost its device is not asked again in this run: as without Ray, what it lacks is told and comes last in the next one.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.plan import Plan
from harness.store import Answer, Index, Store
from harness.sweep.answering import Tally, Timing, Unfinished
from harness.sweep.ledger import Ledger
from harness.sweep.progress import Progress
from harness.sweep.remote import Done
from harness.sweep.shards import Group, Pile, Shard
from harness.sweep.workers import WorkerError
from model_wrappers.errors import UserError

TRIES = 3
"""Workers that may die in the middle of the same samples, or one after the other at their start."""
TEND_SECONDS = 2.0
"""How often the cluster is asked for room for more workers."""

NOT_THERE = "failed to import on the worker"
"""What Ray says where a node cannot load a worker's class."""


class Cluster(Protocol):
    """Where workers come from, see `harness.sweep.cluster.Cluster`."""

    def capacity(self) -> int: ...
    def hire(self) -> Any: ...
    def dismiss(self, handle: Any) -> None: ...


def answer(plan: Plan, store: Store, todo: dict[Group, int], cluster: Cluster, progress: Progress) -> Tally:
    """Answers the groups of `todo` (with their number of lacking answers) on a cluster that Ray is connected to.

    Raises what a worker raised: UserError for what cannot be used, WorkerError for a fault of the code; StoreError when
    the disk refuses; KeyboardInterrupt as it comes. No worker is left when it returns or raises.
    """
    import ray

    with Ledger(plan, store) as ledger:
        crew = _Crew(ledger, todo, cluster, progress)
        try:
            return crew.run()
        except ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:300]
            raise UserError(f"the Ray cluster is gone ({said}); the same command goes on from here") from error
        finally:
            crew.stop()


@dataclass(eq=False)
class _Worker:
    handle: Any
    says: Any
    """What Ray is to be asked for its next message: a reference while it starts, a generator for a shard; None: idle.
    """
    shard: Shard | None = None
    """What it has not answered yet of the one it has."""
    group: Group | None = None
    """What it answered last: it has that model open."""
    torn: Index | None = None
    """The sample of its shard that it answered to some cells only: that at which it lost its device."""
    starting: bool = True
    peak: int = 0


@dataclass
class _Pace:
    """Of one model: seconds and answers (failures are none) so far, and how long the last worker took to open it."""

    timing: Timing = field(default_factory=Timing)
    answers: int = 0
    opening: float | None = None


class _Crew:
    def __init__(self, ledger: Ledger, todo: dict[Group, int], cluster: Cluster, progress: Progress) -> None:
        self.ledger, self.cluster, self.progress = ledger, cluster, progress
        self.place = {group: number for number, group in enumerate(todo)}
        self.pile = Pile(todo, ledger.open)
        self.workers: list[_Worker] = []
        self.paces: dict[str, _Pace] = defaultdict(_Pace)
        self.stillborn = 0
        self.crew = 1
        self.tally = Tally()
        self._tended = 0.0

    @property
    def busy(self) -> list[_Worker]:
        """The workers that have a shard."""
        return [worker for worker in self.workers if worker.shard]

    def run(self) -> Tally:
        """Until nothing is left that a worker could answer."""
        import ray

        while self.pile or self.busy:
            if time.monotonic() - self._tended >= TEND_SECONDS:
                self._tend()
            speaking = {worker.says: worker for worker in self.workers if worker.says is not None}
            if not speaking:
                break
            some, _ = ray.wait(list(speaking), num_returns=1, timeout=TEND_SECONDS)
            if some:  # the others that speak at the same time, too
                some, _ = ray.wait(list(speaking), num_returns=len(speaking), timeout=0)
            for says in some:
                self._hear(speaking[says])
        self.tally.peaks += [worker.peak for worker in self.workers if worker.peak]
        for each in (self.tally.failures, self.tally.unfinished):
            each.sort(key=lambda told: self.place[told.model, told.benchmark])
        return self.tally

    def stop(self) -> None:
        """Ends every worker."""
        for worker in self.workers:
            self.cluster.dismiss(worker.handle)

    def _tend(self) -> None:
        """As many workers as there is room and work for."""
        self._tended = time.monotonic()
        work = len(self.busy) + sum(self.pile.left(model) for model in {model for model, _ in self.pile.groups})
        capacity = self.cluster.capacity()
        if not capacity and all(worker.starting for worker in self.workers):
            for group in self.pile.drop():
                self._give_up(group, "no node is left to answer it")
        self.crew = max(self.crew, min(capacity, work))
        for _ in range(min(capacity, work) - len(self.workers)):
            handle = self.cluster.hire()
            self.workers.append(_Worker(handle, handle.ready.remote()))
            self._show()

    def _hear(self, worker: _Worker) -> None:
        """Takes one message of a worker, or notes its end."""
        import ray

        try:
            kind, content = ray.get(worker.says if worker.starting else next(worker.says))
        except ray.exceptions.RayTaskError as error:
            if NOT_THERE in str(error):
                raise UserError(_unloadable(str(error))) from error
            raise WorkerError(str(error)) from error
        except ray.exceptions.RayError as error:
            self._lost(worker, error)
            return
        if kind == "ready":
            worker.starting, self.stillborn = False, 0
            self._deal(worker)
        elif kind == "answers":
            self._keep(worker, *content)
        elif kind == "done":
            self._finish(worker, content)
        elif kind == "lost":
            self._leave_torn(worker, content)
            self._lost(worker, WorkerError(content))
        elif kind == "mistake":
            raise UserError(content)
        else:
            raise WorkerError(content)

    def _keep(self, worker: _Worker, answers: list[tuple[str, Answer]], tally: Tally) -> None:
        assert worker.shard
        group, wanted = worker.shard.group, worker.shard.wanted
        for cell, answer in answers:
            self.ledger.append(group, cell, answer)
            self.progress.advance(failed=answer.error is not None)
            wanted[answer.index] = tuple(each for each in wanted[answer.index] if each != cell)
        for index in {answer.index for _, answer in answers}:
            if wanted[index]:
                worker.torn = index
            else:
                del wanted[index]
        self.tally.add(tally)
        pace = self.paces[group[0]]
        pace.timing.add(tally.timing)
        pace.answers += tally.answered

    def _finish(self, worker: _Worker, done: Done) -> None:
        assert worker.shard
        if worker.shard.wanted:
            raise WorkerError(f"a worker left out samples {_span(worker.shard)} of {' '.join(worker.shard.group)}")
        group, worker.peak = worker.shard.group, done.peak
        if worker.group is None or worker.group[0] != group[0]:
            self.paces[group[0]].opening = done.opening
        worker.shard, worker.group = None, group
        self._deal(worker)
        self._close(group)

    def _deal(self, worker: _Worker) -> None:
        others = Counter(
            each.shard.group if each.shard else each.group
            for each in self.workers
            if each is not worker and (each.shard or each.group)
        )
        worker.shard = self.pile.deal(worker.group, others, self.crew, self._worth)  # type: ignore[arg-type]
        worker.says = worker.handle.answer.remote(worker.shard) if worker.shard else None
        self._show()

    def _worth(self, model: str) -> bool:
        """Whether one more worker that opens a model is ready before those that have it open are through with it."""
        pace = self.paces[model]
        helping = sum((each.shard.group if each.shard else each.group or ("",))[0] == model for each in self.workers)
        if not helping or pace.opening is None or not pace.answers:
            return True
        return self.pile.left(model) * pace.timing.wall / pace.answers / helping > pace.opening

    def _lost(self, worker: _Worker, error: Exception) -> None:
        """Puts back what a dead worker had, or gives it up, and has another one hired in its place."""
        self.workers.remove(worker)
        self.cluster.dismiss(worker.handle)  # one that only cannot be reached would answer on
        if worker.peak:
            self.tally.peaks.append(worker.peak)
        shard, why = worker.shard, _cause(error)
        if worker.starting:
            self.stillborn += 1
            if self.stillborn >= TRIES:
                raise UserError(f"{TRIES} workers one after the other did not start on the Ray cluster: {why}")
        if shard and shard.wanted:
            if shard.deaths + 1 < TRIES:
                self.pile.put_back(shard)
            else:
                times = f"{TRIES} workers ended, one after the other,"
                self._give_up(shard.group, f"{times} in the middle of samples {_span(shard)}, the last because {why}")
                if not self.paces[shard.model].answers:  # nobody ever answered with it: it is the model, not a sample
                    for group in self.pile.drop(shard.model):
                        self._give_up(group, f"{times} with this model, the last because {why}")
        if shard:
            self._close(shard.group)
        self._tended = 0.0
        for idle in self.workers:
            if not idle.starting and idle.says is None:
                self._deal(idle)

    def _leave_torn(self, worker: _Worker, reason: str) -> None:
        """Leaves what is lacking of the sample at which a device was lost to the next run, told why."""
        if worker.shard and worker.torn is not None:
            del worker.shard.wanted[worker.torn]
            self._give_up(worker.shard.group, reason)

    def _give_up(self, group: Group, reason: str) -> None:
        self.tally.unfinished.append(Unfinished(*group, reason))

    def _close(self, group: Group) -> None:
        """Gives the locks of a group back when nothing of it is left."""
        if not self.pile.has(group) and not any(each.shard.group == group for each in self.busy if each.shard):
            self.ledger.close(group)

    def _show(self) -> None:
        first, *others = [" ".join(each.shard.group) for each in self.busy if each.shard] or ["starting workers"]
        self.progress.at(first + (f", {len(others)} more" if others else ""))


def _span(shard: Shard) -> str:
    first, *rest = shard.wanted
    return f"{first} to {rest[-1]}" if rest else str(first)


def _unloadable(said: str) -> str:
    """What to do about a node that cannot load a worker, from Ray's traceback of its try."""
    address = re.search(r"\bip=([^,)\s]+)", said)
    why = re.findall(r"^\w*(?:Error|Exception): .+", said.partition(NOT_THERE)[2], re.MULTILINE)
    return (
        f"the Ray node {address[1] if address else '(one of them)'} lacks vlm-retain or what it needs"
        f"{f' ({why[-1].strip()})' if why else ''}; install the same version there as here"
    )


def _cause(error: Exception) -> str:
    """What Ray knows of the end of a worker, in a few words."""
    said = " ".join(str(error).split())
    for sign, why in (
        ("node has died", "its node was lost"),
        ("node was terminated", "its node was lost"),
        ("running low on memory", "its node ran out of memory"),
    ):
        if sign in said:
            return why
    return "its process was killed" if "worker process has died" in said else said[:300]
