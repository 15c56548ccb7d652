"""Predictions on disk: one folder a cell, one line an answer.

A cell is one (model, method, keep, benchmark) under one set of settings. The settings are hashed into the cell's id, so
an answer given under other settings can never stand in for a new one:

    <store>/cells/<model>+<method>@<keep>__<benchmark>__<id>/settings.json       what the id is the hash of
                                                            /predictions.jsonl   append-only, one line an answer
    <store>/scores/<key>.json                                                    scores by content, see `Store.score`
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_wrappers.errors import UserError

log = logging.getLogger(__name__)

Index = int | str
ID_LENGTH = 12
SYNC_SECONDS = 5.0
"""A line is written whole at once (a killed process loses none); the disk is told to keep it at most this much later.
"""


class StoreError(UserError):
    """The disk cannot take or give back an answer: full, read-only, in use by another run, or a damaged file."""


@dataclass(slots=True)
class Answer:
    """What one method at one keep answered to one sample.

    Exactly one of `prediction` and `error` is set. `visual` and `kept` count the prompt's visual tokens before and
    after the cut, `kv_visual` the visual tokens in each layer's KV cache. `evidence_kept` is the share (0 to 1) of the
    tokens the question is about that were kept; None where the benchmark does not say which they are. Seconds are wall
    time; `seconds` is the whole answer, encoding excluded, and `scoring_seconds` the part of the method's scoring.
    """

    index: Index
    prediction: str | None = None
    error: str | None = None
    visual: int | None = None
    kept: int | None = None
    kv_visual: list[int] | None = None
    evidence_kept: float | None = None
    scoring_seconds: float | None = None
    seconds: float | None = None


FIELDS = tuple(Answer.__dataclass_fields__)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text. Raises TypeError or ValueError for what JSON
    lacks.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def plain_index(index: Any) -> Index:
    """A benchmark's row index as JSON keeps it: int or str (numpy scalars are unwrapped)."""
    if hasattr(index, "item"):
        index = index.item()
    if isinstance(index, bool) or not isinstance(index, int | str):
        raise StoreError(f"sample index {index!r} is a {type(index).__name__}; allowed are int and str")
    return index


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


class Cell:
    """One cell's folder. Knows its name without touching the disk; `read` needs no lock, `open` takes it.

    `settings` must have the keys model.name, method.name, method.fields, keep and benchmark.name; all of it is hashed.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.id = digest(settings)[:ID_LENGTH]
        self.folder = root / f"{self.label}__{self.id}"
        self.file = self.folder / "predictions.jsonl"

    @property
    def label(self) -> str:
        """For people: model, method with fields, keep and benchmark, in letters that every file system takes."""
        method = self.settings["method"]
        fields = "".join(f",{name}={value}" for name, value in sorted(method["fields"].items()) if value is not None)
        keep = self.settings["keep"]
        model, benchmark = self.settings["model"]["name"], self.settings["benchmark"]["name"]
        text = f"{model}+{method['name']}{fields}@{keep:g}__{benchmark}"
        return re.sub(r"[^A-Za-z0-9._@+=,-]+", "-", text)[:180]

    def read(self) -> dict[Index, Answer]:
        """The last answer of each sample, in file order; {} where there is none. A torn last line is left out."""
        try:
            data = self.file.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"cannot read {self.file}: {error.strerror}") from error
        return self._parse(data)[0]

    def open(self) -> CellWriter:
        """Takes the cell's lock and returns its writer. StoreError when another run has it or the disk refuses."""
        return CellWriter(self)

    def _parse(self, data: bytes) -> tuple[dict[Index, Answer], int]:
        """Answers by index and the length of the whole lines. Raises StoreError at a line that is whole but is no
        answer.
        """
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            torn = len(data) - whole
            log.warning("%s ends in a torn line (%d bytes): dropped, its sample is asked again", self.file, torn)
        answers: dict[Index, Answer] = {}
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
            try:
                answer = Answer(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise StoreError(
                    f"line {number} of {self.file} is not an answer that retain wrote; "
                    "remove that folder to have the cell answered anew"
                ) from error
            answers[answer.index] = answer
        return answers, whole


class CellWriter:
    """The one process that may add answers to a cell. `answers` holds what is there by index; `append` adds to it."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        with disk_errors(cell.folder):
            cell.folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(cell.file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._write_settings()
            with disk_errors(cell.file, "read"):
                data = cell.file.read_bytes()
            self.answers, self._length = cell._parse(data)
            if self._length < len(data):
                with disk_errors(cell.file):
                    os.ftruncate(self._fd, self._length)
        except BaseException:
            os.close(self._fd)
            raise
        self._synced = time.monotonic()
        self._dirty = False

    def __enter__(self) -> CellWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, answer: Answer) -> None:
        """Writes one line whole, or nothing of it. Raises StoreError when the disk refuses; earlier lines stay as they
        are.
        """
        record = {name: getattr(answer, name) for name in FIELDS}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with disk_errors(self.cell.file):
            written = 0
            try:
                while written < len(line):
                    written += os.write(self._fd, line[written:])
            except BaseException:
                if written:
                    os.ftruncate(self._fd, self._length)
                raise
            self._length += len(line)
            self.answers[answer.index] = answer
            self._dirty = True
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self.sync()

    def sync(self) -> None:
        """Has the disk keep what was appended, also through a loss of power."""
        if self._dirty:
            with disk_errors(self.cell.file):
                os.fsync(self._fd)
        self._dirty = False
        self._synced = time.monotonic()

    def close(self) -> None:
        """Syncs and gives the lock back; safe to call twice."""
        if self._fd < 0:
            return
        try:
            self.sync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _lock(self) -> None:
        try:
            with disk_errors(self.cell.file, "lock"):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StoreError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            raise StoreError(
                f"another run is answering {self.cell.folder}; wait for it to end, or give this run another --store"
            ) from error

    def _write_settings(self) -> None:
        path = self.cell.folder / "settings.json"
        if not path.exists():
            write_atomically(path, json.dumps(self.cell.settings, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


class Store:
    """All cells and scores under one folder (default: results/runs). Nothing is made on disk before something is
    written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def pictures(self) -> Path:
        """The folder of the frames and decoded images that models were shown, by content."""
        return self.root / "pictures"

    def cell(self, settings: Mapping[str, Any]) -> Cell:
        """The cell of these settings, answered or not."""
        return Cell(self.root / "cells", settings)

    def score(self, key: str) -> dict[str, Any] | None:
        """A score kept by `save_score` under the digest of all that it was computed from; None where there is none."""
        path = self.root / "scores" / f"{key}.json"
        try:
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {path}: {error}; remove it to have it computed anew") from error

    def save_score(self, key: str, score: Mapping[str, Any]) -> None:
        """Keeps a score under `key`. Raises StoreError when the disk refuses."""
        write_atomically(self.root / "scores" / f"{key}.json", json.dumps(score, ensure_ascii=False) + "\n")


def missing(answers: Mapping[Index, Answer], indices: list[Index]) -> list[Index]:
    """Those of `indices` that have no answer yet; a failed sample counts as missing."""
    return [index for index in indices if (got := answers.get(index)) is None or got.error is not None]


def predictions_digest(answers: Mapping[Index, Answer], indices: list[Index]) -> str:
    """sha256 over the predictions of `indices` in order; a failed or missing sample is null."""
    pairs = [[index, answers[index].prediction if index in answers else None] for index in indices]
    return digest(pairs)
