"""Predictions on disk: one folder a cell, one line an answer.

A cell is one (model, method, keep, benchmark) under one set of settings. The settings are hashed into the cell's id, so
an answer given under other settings can never stand in for a new one:

    <store>/cells/<model>+<method>@<keep>__<benchmark>__<id>/settings.json       what the id is the hash of
                                                            /predictions.jsonl   append-only, one line an answer
    <store>/scores/<key>.json                                                    scores by content, see `Store.score`
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.disk import StoreError, write_atomically
from harness.journal import Journal, read_lines

Index = int | str
ID_LENGTH = 12


@dataclass(slots=True)
class Answer:
    """What one method at one keep answered to one sample.

    Exactly one of `prediction` and `error` is set. `visual` and `kept` count the prompt's visual tokens before and
    after the cut, `kv_visual` the visual tokens in each layer's KV cache, `worked` those that each layer worked on
    where its cache was then cut (None, which is not written: as many as it holds). `evidence_kept` is the share (0 to
    1) of the tokens the question is about that were kept; None where the benchmark does not say which they are. Seconds
    are wall time; `seconds` is the whole answer, encoding excluded, and `scoring_seconds` the part of the method's
    scoring.
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
    worked: list[int] | None = None

    @property
    def by_layer(self) -> list[int] | None:
        """Visual tokens that each layer worked on."""
        return self.kv_visual if self.worked is None else self.worked


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
        return self.parse(read_lines(self.file))

    def open(self) -> CellWriter:
        """Takes the cell's lock and returns its writer. StoreError when another run has it or the disk refuses."""
        return CellWriter(self)

    def parse(self, lines: Sequence[bytes]) -> dict[Index, Answer]:
        """Answers by index. Raises StoreError at a line that is no answer."""
        answers: dict[Index, Answer] = {}
        for number, line in enumerate(lines, start=1):
            try:
                answer = Answer(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise StoreError(
                    f"line {number} of {self.file} is not an answer that retain wrote; "
                    "remove that folder to have the cell answered anew"
                ) from error
            answers[answer.index] = answer
        return answers


class CellWriter:
    """The one process that may add answers to a cell. `answers` holds what is there by index; `append` adds to it."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self._journal = Journal(
            cell.file, f"another run is answering {cell.folder}; wait for it to end, or give this run another --store"
        )
        try:
            self._write_settings()
            self.answers = cell.parse(self._journal.lines)
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> CellWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lacking(self, indices: list[Index]) -> list[Index]:
        """Those of `indices` that have no answer yet; a failed sample counts as lacking."""
        return missing(self.answers, indices)

    def failed(self, index: Index) -> bool:
        """Whether the sample was asked and has no answer."""
        return index in self.answers and self.answers[index].error is not None

    def append(self, answer: Answer) -> None:
        """Writes one line whole, or nothing of it. Raises StoreError when the disk refuses; earlier lines stay as they
        are.
        """
        line = {name: getattr(answer, name) for name in FIELDS}
        if answer.worked is None:
            del line["worked"]
        self._journal.append(line)
        self.answers[answer.index] = answer

    def close(self) -> None:
        """Syncs and gives the lock back; safe to call twice."""
        self._journal.close()

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

    def open(self, settings: Mapping[str, Any]) -> CellWriter:
        """The writer of the cell of these settings. StoreError when another run has it or the disk refuses."""
        return self.cell(settings).open()

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
