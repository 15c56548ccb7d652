"""The command `retain` in a process that begins with its imports done (`tests.warm`), to be ended at a chosen moment.

Real: the whole of `harness.cli.main`, from the arguments to the exit status, in a process, session and process group of
its own; its plan, model, store, scores and tables; the signals. Not real, beside the imports: the workers of
`--workers 2` are forked with theirs done, then given the same pipe and nothing else, where the command would start them
anew (tests/sweep/test_kill.py kills those).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests import warm

PHASES = ("start", "plan", "opening", "answering", "scoring", "tables")
"""What a run does in turn: its arguments and settings; the plan, written at its end; opening models (or starting
workers); answering; scoring; writing the table."""

PATIENCE = 120.0
"""Seconds after which a run, or a worker whose parent is gone, counts as stuck."""


class Clock:
    """When each phase of a run began, in seconds of `time.monotonic`: 0.0 where it did not.

    `times`: in memory that a process shares with its parent.
    """

    def __init__(self, times: MutableSequence[float]) -> None:
        self._times = times

    def begin(self, phase: str) -> None:
        """The first time counts."""
        if not self.began(phase):
            self._times[PHASES.index(phase)] = time.monotonic()

    def began(self, phase: str) -> float:
        return self._times[PHASES.index(phase)]

    @property
    def phase(self) -> str:
        """The one that the run is in."""
        return next((phase for phase in reversed(PHASES) if self.began(phase)), "start")


class Run:
    """A command that is under way. `core`: the only one it may use. `variables`: of its environment."""

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        core: int | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        server = warm.context()
        times = server.RawArray(ctypes.c_double, len(PHASES))
        self.clock, self.log = Clock(times), log
        given = ([str(argument) for argument in arguments], times, log, core, dict(variables))
        self._process = server.Process(target=_command, args=given)
        self._process.start()
        pid = self._process.pid
        assert pid is not None
        self.pid = pid
        while not self.clock.began("start") and self.status is None:
            time.sleep(0.0005)

    @property
    def status(self) -> int | None:
        """The exit status (negative: of a signal), or None where it has not ended."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int | None:
        """Its status after so many seconds at the most."""
        self._process.join(seconds)
        return self.status

    def wait_for(self, phase: str) -> None:
        """Until that phase or a later one begins, or the run ends."""
        while PHASES.index(self.clock.phase) < PHASES.index(phase) and self.status is None:
            time.sleep(0.0002)

    def wait_until(self, there: Callable[[], bool]) -> None:
        """Until `there` holds, which it must before the run ends and before long."""
        until = time.monotonic() + PATIENCE
        while not there():
            assert self.status is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.005)

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


def _runs_in_group(pid: int, group: int) -> bool:
    try:
        state, _, members_of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(members_of) == group and state not in "ZX"


def _command(
    arguments: list[str], times: MutableSequence[float], log: Path, core: int | None, variables: dict[str, str]
) -> None:
    """All that the process does."""
    os.setsid()
    os.environ.update(variables)
    if core is not None:
        os.sched_setaffinity(0, {core})
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    import torch

    import harness.cli

    torch.set_num_threads(1)
    clock = Clock(times)
    _tell_phases(clock)
    _fork_workers()
    clock.begin("start")
    sys.exit(harness.cli.main(arguments))


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
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number != pipe.fileno():
                try:
                    os.close(number)
                except OSError:
                    continue  # that of the listing
        work(pipe, *given)

    workers.work = alone
    workers.get_context = lambda _: context  # type: ignore[assignment]
