"""A process with mounts of its own, so that a disk can really be full or read-only and nothing is left to unmount."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

NEWNS, NEWUSER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, RECURSIVE, PRIVATE = 1, 32, 0x4000, 0x40000
REFUSED = 77
_libc = ctypes.CDLL(None, use_errno=True)


def alone(work: Callable[[], None]) -> None:
    """Runs `work` in a child that may mount; its failed assertions fail this test."""
    assert _status(work) == 0, "see the child's traceback"


def may_mount() -> bool:
    """Whether this machine lets a process of this user have mounts of its own."""
    return _status(lambda: None) != REFUSED


def _status(work: Callable[[], None]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()  # a decord reader that another test left ends in this process, not in the child, where it crashes
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _inside(work)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def disk(folder: Path, size: int | None = None, *, read_only: bool = False, again: bool = False) -> None:
    """A memory disk of so many bytes at `folder`; `again` changes the one that is there."""
    flags = (REMOUNT if again else 0) | (READ_ONLY if read_only else 0)
    _mount("tmpfs", folder, "tmpfs", flags, f"size={size}" if size else "")


def _inside(work: Callable[[], None]) -> int:
    import torch

    if _libc.unshare(NEWNS | (0 if os.geteuid() == 0 else NEWUSER)) != 0:
        return REFUSED
    _mount("none", Path("/"), "", RECURSIVE | PRIVATE, "")
    torch.set_num_threads(1)
    work()
    return 0


def _mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    given = (source.encode(), bytes(target), kind.encode(), flags, data.encode())
    if _libc.mount(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
