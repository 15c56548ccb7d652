"""A process of ours: deaf to Ctrl-C, which is its parent's to hear, and heard of at its end, whichever that is."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from model_wrappers.errors import UserError

PATIENCE = 5.0
"""Seconds that a process gets to end when it is told to."""


def stop(process: BaseProcess) -> None:
    """Waits for a process that was told to end, and kills one that does not."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def fate(process: BaseProcess) -> str:
    """How a process ended that told no more, in a few words."""
    process.join(PATIENCE)
    status = process.exitcode
    return f"was killed ({signal.Signals(-status).name})" if status and status < 0 else f"ended with status {status}"


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal. A process begun in here ignores it from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's; the worker ignores them as soon as it runs
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def telling(pipe: Connection) -> Iterator[None]:
    """The whole life of a worker process. Ctrl-C is its parent's to hear; what ends it early is told to the parent.

    Sends ("mistake", UserError) or ("fault", traceback). Ends in silence where the parent is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it and ends this process
    logging.basicConfig(level=logging.WARNING, format="retain: %(message)s", stream=sys.stderr)
    message: tuple[str, Any]
    try:
        yield
        return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UserError as error:
        message = ("mistake", error)
    except Exception:
        message = ("fault", traceback.format_exc())
    try:
        pipe.send(message)
    except OSError:
        pass  # nobody listens any more
