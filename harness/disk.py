"""Files that are whole or not there, and a disk that refuses told in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_wrappers.errors import UserError


class StoreError(UserError):
    """The disk cannot take or give back an answer: full, read-only, in use by another run, or a damaged file."""


@contextmanager
def disk_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Tells an operating system's refusal (disk full, read-only, no permission) in one sentence, as `StoreError`."""
    hints = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file size limit is reached",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission is denied",
        errno.EPERM: "permission is denied",
    }
    try:
        yield
    except OSError as error:
        reason = hints.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(
            f"cannot {doing} {path}: {reason}; every answer written before is kept, the same command goes on from there"
        ) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes the whole file or none of it: no reader meets half a file. Raises StoreError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
