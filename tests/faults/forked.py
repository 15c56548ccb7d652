"""The command `retain` in a child of a process that has its imports done, to be killed at a chosen moment.

Real: the whole of `harness.cli.main`, from the arguments to the exit status, in a process, session and process group of
its own; its plan, model, store, scores and tables; `kill -9`. Not real: the interpreter's start and the imports, which
take most of a command's time and touch no file of ours, happen once, in the parent; and the workers of `--workers 2`
are forked with the imports done, then given the same pipe and nothing else, where the command would start them anew
(tests/sweep/test_kill.py and test_workers.py kill those).
"""

from __future__ import annotations

import importlib
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PHASES = ("start", "plan", "opening", "answering", "scoring", "tables")
"""What a run does in turn: its arguments and settings; the plan, written at its end; opening models (or starting
workers); answering; scoring; writing the table."""


class Clock:
    """When each phase of a run began, in seconds of `time.monotonic`, in memory that a child shares with its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(PHASES))

    def begin(self, phase: str) -> None:
        """The first time counts."""
        if not self.began(phase):
            struct.pack_into("d", self._memory, 8 * PHASES.index(phase), time.monotonic())

    def began(self, phase: str) -> float:
        """0.0 where it did not."""
        return struct.unpack_from("d", self._memory, 8 * PHASES.index(phase))[0]

    @property
    def phase(self) -> str:
        """The one that the run is in."""
        return next((phase for phase in reversed(PHASES) if self.began(phase)), "start")


class Run:
    """A command that is under way in a child."""

    def __init__(self, arguments: Sequence[object], log: Path) -> None:
        self.clock, self.log = Clock(), log
        self.status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _command([str(argument) for argument in arguments], self.clock, log)
        while not self.clock.began("start") and not self._ended():
            time.sleep(0.0005)

    def wait(self, seconds: float) -> int | None:
        """The exit status (negative: of a signal), or None where it has not ended in so many seconds."""
        until = time.monotonic() + seconds
        while not self._ended() and time.monotonic() < until:
            time.sleep(0.0005)
        return self.status

    def wait_for(self, phase: str) -> None:
        """Until that phase or a later one begins, or the run ends."""
        while PHASES.index(self.clock.phase) < PHASES.index(phase) and not self._ended():
            time.sleep(0.0002)

    def kill(self, *, tree: bool) -> None:
        """kill -9 of the command, and of all that it started."""
        (os.killpg if tree else os.kill)(self.pid, signal.SIGKILL)
        self.wait(60)

    def members(self) -> list[int]:
        """The processes of its group that still run."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _runs_in_group(pid, self.pid)]

    def workers(self) -> list[int]:
        """The processes that it started and that still run."""
        return [pid for pid in self.members() if pid != self.pid]

    def end(self) -> None:
        """Leaves no process."""
        if self.members():
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(60)

    def _ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None


def load() -> None:
    """Imports what a run needs, so that no child has to."""
    for name in (
        "torch",
        "transformers.models.qwen2_vl.modeling_qwen2_vl",
        "transformers.models.qwen2_vl.processing_qwen2_vl",
        "vlmeval.dataset",
        "model_wrappers.families.qwen2_vl",
        *(f"harness.{name}" for name in ("cli", "models", "plan", "results", "scoring", "sweep")),
    ):
        importlib.import_module(name)


def _runs_in_group(pid: int, group: int) -> bool:
    try:
        state, _, members_of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(members_of) == group and state not in "ZX"


def _command(arguments: list[str], clock: Clock, log: Path) -> None:
    """The child; does not return."""
    status = 70
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        import torch

        import harness.cli

        torch.set_num_threads(1)
        _tell_phases(clock)
        _fork_workers()
        clock.begin("start")
        status = harness.cli.main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _tell_phases(clock: Clock) -> None:
    from harness import plan, results
    from harness.sweep.progress import Lines

    def told(owner: Any, name: str, phase: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*arguments: Any, **options: Any) -> Any:
            clock.begin(phase)
            return inner(*arguments, **options)

        setattr(owner, name, outer)

    told(plan, "make", "plan")
    told(Lines, "begin", "opening")
    told(Lines, "advance", "answering")
    told(results, "collect", "scoring")
    told(results, "write", "tables")


def _fork_workers() -> None:
    from harness.sweep import workers

    work, context = workers.work, multiprocessing.get_context("fork")

    def alone(pipe: Any, *given: Any) -> None:
        """A worker that the command starts has its pipe and nothing else of its parent's."""
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number != pipe.fileno():
                try:
                    os.close(number)
                except OSError:
                    continue  # that of the listing
        work(pipe, *given)

    workers.work = alone
    workers.get_context = lambda _: context  # type: ignore[assignment]
