"""What judges were asked, what they said and what it cost: one append-only JSONL file a judge's model.

A line is a call that was, or may have been, paid for:

    key       digest of all that the verdict depends on, see `harness.scoring.judge`
    outcome   "verdict" (remembered: never asked again), "unusable" (no verdict could be read), "lost" (no answer came
              back, though the server may have worked)
    for       the experiment and the benchmark that it was asked for
    usage     prompt and completion tokens, as the server counted them; null where it did not say
    usd       what they cost; null where tokens or price are not known
    most_usd  where the tokens are not known but the price is: what the call can have cost at most
    asked, reply, model, url, served    the messages, the answer, the model, its server, and what that calls the model

Safe to kill at any moment (a torn line is not read, and what it held is asked again), and for several processes at a
time: a line is written under a lock, and a question that another process is asking is waited for.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.disk import disk_errors


@dataclass
class Tally:
    """A sum over calls. `unknown`: calls whose tokens the server did not count. `unpriced`: calls of unknown price.
    `bounded`: calls of known price whose tokens are not known; `most_usd`: what these can have cost at most. None of
    them is in `usd`.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unknown: int = 0
    usd: float = 0.0
    unpriced: int = 0
    bounded: int = 0
    most_usd: float = 0.0

    def book(self, entry: dict[str, Any]) -> None:
        """Adds one line of a ledger."""
        usage, usd, most = entry.get("usage"), entry.get("usd"), entry.get("most_usd")
        self.calls += 1
        if usage is None:
            self.unknown += 1
        else:
            self.prompt_tokens += usage[0]
            self.completion_tokens += usage[1]
        if usd is not None:
            self.usd += usd
        elif most is not None:
            self.bounded += 1
            self.most_usd += most
        else:
            self.unpriced += 1

    def add(self, other: Tally) -> None:
        """Adds another sum."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def charge(self) -> float:
        """US dollars that count against a limit: what is known, and the most that the rest can have cost."""
        return self.usd + self.most_usd


class Ledger:
    """One file of calls. Nothing is made on disk before something is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tallies: dict[tuple[str, str], Tally] = {}
        """By experiment and benchmark, all calls in the file."""
        self._replies: dict[str, str] = {}
        self._read = 0
        self._lock = threading.Lock()
        self._refresh()

    def get(self, key: str) -> str | None:
        """The verdict under `key`; None where none is known."""
        return self._replies.get(key)

    @contextmanager
    def alone(self, key: str) -> Iterator[str | None]:
        """While it lasts nobody else, in no process, asks the question `key`; yields the verdict if somebody had it.

        Raises StoreError when the disk refuses.
        """
        path = self.path.parent / "locks" / key[:2]
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with disk_errors(path, "lock"):
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._refresh()
            yield self.get(key)
        finally:
            os.close(lock)

    def add(self, entry: dict[str, Any]) -> None:
        """Appends a line whole, or nothing of it, and has the disk keep it. Raises StoreError when the disk refuses."""
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                length = os.fstat(file).st_size
                if length and os.pread(file, 1, length - 1) != b"\n":
                    line = b"\n" + line  # ends the line that a kill tore
                try:
                    written = 0
                    while written < len(line):
                        written += os.write(file, line[written:])
                    os.fsync(file)
                except BaseException:
                    os.ftruncate(file, length)
                    raise
            finally:
                os.close(file)
        self._refresh()

    def _refresh(self) -> None:
        """Reads what was appended since, by whomever."""
        with self._lock:
            with disk_errors(self.path, "read"):
                if not self.path.exists():
                    return
                with self.path.open("rb") as file:
                    file.seek(self._read)
                    data = file.read()
            whole = data.rfind(b"\n") + 1
            self._read += whole
            for line in data[:whole].split(b"\n"):
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, purpose = entry["key"], entry.get("for")
        except (ValueError, KeyError, TypeError):
            return  # empty, or torn by a kill; what it held is asked again
        if entry.get("outcome") == "verdict":
            self._replies[key] = entry["reply"]
        if purpose:
            self.tallies.setdefault((purpose[0], purpose[1]), Tally()).book(entry)
