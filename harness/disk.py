"""Files that are whole or not there, and a disk that refuses told in one sentence."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_wrappers.errors import UserError

REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOTDIR: "not a folder",
    errno.EEXIST: "something else has this name",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
}
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)
"""What making a folder meets where a file is in its way."""


class StoreError(UserError):
    """The disk cannot take or give back an answer: full, read-only, in use by another run, or a damaged file."""


class Refused(StoreError):
    """The operating system refuses: what was written before stays, and a command that resumes can be repeated."""


@contextmanager
def disk_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Tells an operating system's refusal (disk full, read-only, no permission) in one sentence, as `Refused`."""
    try:
        yield
    except OSError as error:
        raise Refused(f"cannot {doing} {path}: {_reason(error)}") from error


def check_folder(folder: Path, option: str) -> None:
    """Makes a folder that a command will write to at its end, and tries it: before minutes of work, not after them.

    Raises UserError, in the words of the command's `option`, where it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
            probe.flush()
    except OSError as error:
        if error.errno in NO_FOLDER:
            raise UserError(f"{option} {folder}: not a folder") from error
        raise UserError(f"{option} {folder} cannot be written to ({_reason(error)})") from error


def _reason(error: OSError) -> str:
    return REFUSALS.get(error.errno or 0, error.strerror or str(error))


def refusal(error: BaseException) -> str | None:
    """The sentence for an operating system's refusal that a library met, which knows of no `disk_errors`; None for any
    other error.
    """
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    return f"cannot use {error.filename or 'a file'}: {REFUSALS[error.errno]}"


def stop_if_full(error: BaseException) -> None:
    """Raises StoreError where nothing more can be written, which is not the fault of the sample that met it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise Refused(refusal(error)) from error


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
