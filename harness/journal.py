"""A file of JSON lines that grows: one process writes it, a line is whole or not there, and a kill loses none."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.disk import StoreError, disk_errors

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
"""A line is written whole at once (a killed process loses none); the disk is told to keep it at most this much later.
"""


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a journal, which may be growing; [] where there is none. Raises StoreError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    return data.split(b"\n")[:-1]


class Journal:
    """The one process that may add lines. `lines` are those that were there; a torn last one is taken away.

    Args:
        path: the file; it and its folder are made where they are lacking.
        busy: the sentence for when another process has it.

    Raises:
        StoreError: another process has it, or the disk refuses.
    """

    def __init__(self, path: Path, busy: str) -> None:
        self.path = path
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock(busy)
            self.lines = self._whole_lines()
        except BaseException:
            os.close(self._fd)
            raise
        self._synced, self._dirty = time.monotonic(), False

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line whole, or nothing of it. Raises StoreError when the disk refuses; earlier lines stay as they
        are.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with disk_errors(self.path):
            written = 0
            try:
                while written < len(line):
                    written += os.write(self._fd, line[written:])
            except BaseException:
                if written:
                    os.ftruncate(self._fd, self._length)
                raise
            self._length += len(line)
            self._dirty = True
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self.sync()

    def sync(self) -> None:
        """Has the disk keep what was appended, also through a loss of power."""
        if self._dirty:
            with disk_errors(self.path):
                os.fsync(self._fd)
        self._dirty, self._synced = False, time.monotonic()

    def close(self) -> None:
        """Syncs and gives the lock back; safe to call twice."""
        if self._fd < 0:
            return
        try:
            self.sync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _lock(self, busy: str) -> None:
        try:
            with disk_errors(self.path, "lock"):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StoreError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise StoreError(busy) from error
            raise

    def _whole_lines(self) -> list[bytes]:
        with disk_errors(self.path, "read"):
            data = self.path.read_bytes()
        self._length = data.rfind(b"\n") + 1
        if torn := len(data) - self._length:
            log.warning("%s ends in a torn line (%d bytes): dropped, its sample is asked again", self.path, torn)
            with disk_errors(self.path):
                os.ftruncate(self._fd, self._length)
        return data.split(b"\n")[:-1]
