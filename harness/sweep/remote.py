"""A worker of a Ray cluster: it keeps a model open and answers one shard after the other. It never sees the store.

Its messages are (kind, content):
    ("ready", None)                 it can answer
    ("answers", (answers, tally))   [(id of a cell, Answer)] and what was counted meanwhile; samples are complete, but
                                    for the one at which the device was lost
    ("done", Done)                  the shard's last
    ("lost", sentence)              its last, too: the device works no more, the worker is to be ended
    ("mistake", sentence)           what no sample could be answered with
    ("fault", traceback)            an error that is neither a user's mistake nor one sample's
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.plan import Data, Plan
from harness.store import ID_LENGTH, Answer, Index, Store, digest
from harness.sweep import memory
from harness.sweep.answering import Answerer, Tally
from harness.sweep.progress import Progress
from harness.sweep.shards import Shard
from model_wrappers.errors import UserError

Message = tuple[str, Any]
TELL_SECONDS = 1.0
"""A worker tells its answers so often: what its death costs at most, and 64 messages a second of 64 workers."""


@dataclass(frozen=True)
class Done:
    """The end of a shard: the most bytes the worker ever held, and the seconds before the first sample was asked."""

    peak: int
    opening: float


class Outbox:
    """In the place of the store: its cells lack what the shard wants, and their answers wait here to be told."""

    def __init__(self) -> None:
        self.shard = Shard("", "", {})
        self.answers: list[tuple[str, Answer]] = []

    @contextmanager
    def open(self, settings: Mapping[str, Any]) -> Iterator[_Slot]:
        """The place of one cell."""
        yield _Slot(self, digest(settings)[:ID_LENGTH])

    def take(self) -> list[tuple[str, Answer]]:
        """The answers since the last time."""
        taken, self.answers = self.answers, []
        return taken


@dataclass(frozen=True)
class _Slot:
    outbox: Outbox
    cell: str

    def lacking(self, indices: list[Index]) -> list[Index]:
        return [index for index, cells in self.outbox.shard.wanted.items() if self.cell in cells]

    def failed(self, index: Index) -> bool:
        return False  # the driver knows, and has put those into the last shards

    def append(self, answer: Answer) -> None:
        self.outbox.answers.append((self.cell, answer))


class Worker:
    """Given what the driver has: its plan, data folder, folder of pictures (see `harness.plan.Data`), current folder,
    and Ray's id of the node it runs on.

    `share`: how many of its node's cores are this worker's, for torch and to decode.

    On the driver's node, pictures are kept where the driver's are. Elsewhere they lie in `scratch()`, for all workers
    of a node: none of them can remove them, since a worker ends by being killed; the first that finds no other one
    there does, at its start.
    """

    def __init__(self, plan: Plan, data: Path, pictures: Path | None, home: str, node: str, share: int) -> None:
        self.plan, self.data, self.pictures, self.home, self.node = plan, data, pictures, home, node
        self.share = share
        self.outbox = Outbox()
        self._answerer: Answerer | None = None
        self._shown: IO[str] | None = None

    def ready(self) -> Message:
        """Loads what every model needs, and makes sure that this node answers as the driver's would."""
        try:
            self._answerer = Answerer(self.plan, self.outbox, self._prepare(), Progress(), self.share)
        except UserError as error:
            return "mistake", self._told(error)
        except Exception:
            return "fault", traceback.format_exc()
        return "ready", None

    def answer(self, shard: Shard) -> Iterator[Message]:
        """Asks the samples of a shard, and tells the answers every `TELL_SECONDS`."""
        assert self._answerer
        self.outbox.shard, tally, wall = shard, Tally(), 0.0
        start = told = time.perf_counter()
        last: Message
        try:
            for _ in self._answerer.asked(shard.model, shard.benchmark, tally):
                if time.perf_counter() - told >= TELL_SECONDS:
                    told = time.perf_counter()
                    yield "answers", (self.outbox.take(), tally.take())
            wall = tally.timing.wall
            last = ("done", Done(memory.peak(), time.perf_counter() - start - wall))
            if self._answerer.lost:
                tally.unfinished.clear()  # another worker gets the rest of the shard
                last = ("lost", self._answerer.lost)
        except UserError as error:
            last = ("mistake", self._told(error))
        except Exception:
            last = ("fault", traceback.format_exc())
        yield "answers", (self.outbox.take(), tally.take())
        yield last

    def _prepare(self) -> Data:
        if Path(self.home).is_dir():
            os.chdir(self.home)  # paths of checkpoints may be relative to it
        import torch

        torch.set_num_threads(self.share)
        if self.plan.experiment.data == "micro":
            import harness.micro

            harness.micro.register()
        if self._abroad() is None:
            return Data(self.plan.experiment, self.data, self.pictures)
        return self._compare()

    def _compare(self) -> Data:
        """The data of this node, after a plan made here said the same as the driver's, word for word: data, weights,
        code, versions, device. One worker of a node does it at a time; the others find the plan that it made.
        """
        from harness import plan as plans

        own = scratch()
        with (own / "plan.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._shown = _shared(Store(own).pictures)
            data = Data(self.plan.experiment, self._folder(own), Store(own).pictures)
            made = plans.make(self.plan.experiment, data, Store(own))
        if (told := _difference(_content(self.plan), _content(made))) is not None:
            raise UserError(f"it would not answer as this machine: {told}")
        return data

    def _folder(self, own: Path) -> Path:
        if self.data.is_dir():
            return self.data
        if self.plan.experiment.data != "micro":
            raise UserError(f"there is no folder {self.data}; each node needs the data at the same path")
        from harness.micro.editions import ensure

        return ensure(own)

    def _abroad(self) -> str | None:
        """The address of this node where it is not the driver's."""
        import ray

        here = ray.get_runtime_context().get_node_id()
        return None if here == self.node else ray.util.get_node_ip_address()

    def _told(self, error: UserError) -> str:
        where = self._abroad()
        return str(error) if where is None else f"on the Ray node {where}: {error}"


def scratch(place: str | None = None) -> Path:
    """A folder of this user's on this node, for what can be made again; in `place`, else where temporary files go."""
    folder = Path(place or tempfile.gettempdir()) / f"retain-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _shared(pictures: Path) -> IO[str]:
    """A lock on a folder of pictures that is held as long as the file returned is open, by many at once; who is alone
    finds an empty folder. For one process at a time.
    """
    lock = pictures.with_name(f"{pictures.name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # another worker's model is being shown some of them
    else:
        shutil.rmtree(pictures, ignore_errors=True)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _content(plan: Plan) -> dict[str, Any]:
    cells = {f"{cell.model} row {cell.row} @{cell.keep:g} {cell.benchmark}": cell.settings for cell in plan.cells}
    return {"cells": cells, "samples": plan.samples}


def _difference(ours: Any, theirs: Any, where: str = "") -> str | None:
    """Where two values differ first, in words; None where they are equal."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            inner = f"{where}: {key}" if where else str(key)
            if (told := _difference(ours.get(key), theirs.get(key), inner)) is not None:
                return told
        return None
    same = digest(ours) == digest(theirs)
    return None if same else f"{where} is {str(theirs)[:80]} there and {str(ours)[:80]} here"
