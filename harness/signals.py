"""SIGTERM of a cluster's scheduler and SIGHUP of a closed terminal end a command as Ctrl-C does: with all that is kept.

By default they would end the process where it stands: its workers would be left to find out, and nobody told how to go
on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Ending:
    """Which signal asked a command to end: Ctrl-C's, where no other one came."""

    signal: int = signal.SIGINT

    @property
    def status(self) -> int:
        """What a shell calls the end by that signal."""
        return 128 + self.signal


@contextmanager
def interrupting() -> Iterator[Ending]:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread; one that is ignored (`nohup`) stays so."""
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending  # signals are the main thread's
        return
    terminals = [fd for fd in (0, 1, 2) if _is_terminal(fd)]

    def interrupt(number: int, _: Any) -> None:
        ending.signal = number
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)  # the shell may send it after the terminal did
            _leave(terminals)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield ending
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _leave(terminals: list[int]) -> None:
    """A terminal that is gone refuses what is written to it; the end of a command is not to fail of that."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in terminals:
        os.dup2(nothing, fd)
    os.close(nothing)
