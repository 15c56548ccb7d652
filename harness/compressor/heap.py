"""Memory of a training on a CPU: the blocks that a step frees are kept for the next one.

glibc hands large blocks back to the system as they are freed. A training step frees them all, so the next would meet
fresh pages only, and spend a good part of its time on page faults.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Of mallopt, as malloc.h numbers them."""
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
"""What glibc itself arrives at in a process that has freed large blocks; once set, it adapts no longer."""


@contextmanager
def kept() -> Iterator[None]:
    """Within it freed blocks are kept, up to 2 GiB; after it they are handed back. Nothing happens without glibc."""
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    _set(libc, KEEPING)
    try:
        yield
    finally:
        _set(libc, USUAL)
        libc.malloc_trim(0)


def _set(libc: Any, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
