"""Processes that begin with their imports done, for tests that begin many.

What is real: each is a process of its own, which is handed what the code hands it, through the same pipe. What is not:
the interpreter's start and the imports, which take most of its time and touch no file of ours, happen once, in a server
that forks it. The command with workers and all from a cold start: tests/sweep/test_kill.py.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def context() -> ForkServerContext:
    """To be used in place of `multiprocessing`'s "spawn"."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.warm_imports"])
    return made
