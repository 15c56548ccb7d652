"""A compressor's training set on disk: first-layer attention and exact relevance of what a model answered right.

    DIR/dataset.json                 what it was made with: model, media, relevance, judge, sources, version
    DIR/samples.jsonl                append-only, one line a sample asked, kept or not
    DIR/tensors/<sha>.safetensors    attention [N_v] and relevance [N_v], float32

A tensor file is whole on the disk before its line is written, and a line is written whole or not at all: what a line
says is there, is there. Where a sample has several lines, the last one counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from harness.disk import disk_errors, write_atomically
from harness.journal import Journal, read_lines
from model_wrappers.errors import UserError

VERSION = 1
"""Of this layout."""
FREE = ("sources", "test_splits")
"""Keys of the manifest that may change between two runs into one folder: what was there to draw from."""


@dataclass(frozen=True)
class Pair:
    """One sample that the model answered right: what the compressor sees and what it is to predict."""

    id: str
    group: str
    """The video or image it is about; a held-out split never cuts one in two."""
    source: str
    attention: Tensor
    """A_v^0: [N_v] float32."""
    relevance: Tensor
    """R_v: [N_v] float32; may be negative only where it was collected without clamp."""
    grids: list[tuple[int, int, int]]
    """`VisualPrompt.grids`: (time, height, width) in visual tokens of each image or video."""


class TrainingSet:
    """A folder as described above. `create` takes its lock and may write; `open` only reads.

    `manifest` is the content of dataset.json, `records` the last line of each sample by id. For a `with` where it may
    write, at whose end it is closed.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], journal: Journal | None = None) -> None:
        """Not for callers: see `create` and `open`."""
        self.folder, self.manifest, self._journal = folder, manifest, journal
        self._file = folder / "samples.jsonl"
        self.records = self._parse(journal.lines if journal else read_lines(self._file))

    @classmethod
    def create(cls, folder: Path, manifest: Mapping[str, Any]) -> TrainingSet:
        """A new set, or an existing one of the same manifest, to be gone on with.

        Args:
            manifest: JSON; `version` is added. But for `sources` and `test_splits` it must be what the folder was
                begun with.

        Raises:
            UserError: the folder holds something else, or was begun with other settings; names the first that differs.
            StoreError: another run is writing into it, or the disk refuses.
        """
        wanted = json.loads(json.dumps({"version": VERSION, **manifest}))
        path = folder / "dataset.json"
        if path.exists():
            _same(path, _manifest(folder), wanted)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty and has no dataset.json: give --out a folder of its own")
        with disk_errors(folder):
            (folder / "tensors").mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")
        journal = Journal(folder / "samples.jsonl", f"another run is collecting into {folder}; wait for it to end")
        try:
            return cls(folder, wanted, journal)
        except BaseException:
            journal.close()
            raise

    @classmethod
    def open(cls, folder: Path) -> TrainingSet:
        """An existing set, for reading; one that is being written to is read as far as it is.

        Raises:
            UserError: no such folder, or it holds no training set that this version can read.
        """
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: `retain compressor collect --out {folder}` makes it")
        return cls(folder, _manifest(folder))

    def __enter__(self) -> TrainingSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many samples are kept."""
        return sum(record["kept"] for record in self.records.values())

    def seen(self) -> set[str]:
        """The ids that need not be asked again: all but those that failed."""
        return {name for name, record in self.records.items() if not (record["reason"] or "").startswith("failed: ")}

    def add(self, record: Mapping[str, Any], attention: Tensor, relevance: Tensor) -> None:
        """Keeps a sample: its tensors [N_v] first, then its line.

        Args:
            record: id, source, group, media, n_visual, grids, question, answer, response, in JSON's types.

        Raises:
            ValueError: tensors of another shape than [n_visual], or not finite.
            StoreError: the disk refuses; nothing of the sample is kept.
        """
        tensors = {"attention": attention, "relevance": relevance}
        for name, tensor in tensors.items():
            if tensor.shape != (record["n_visual"],) or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} of {record['id']}: {record['n_visual']} finite numbers are wanted")
        name = f"tensors/{hashlib.sha256(record['id'].encode()).hexdigest()[:32]}.safetensors"
        write_atomically(self.folder / name, _safetensors(tensors))
        self._append({**record, "kept": True, "reason": None, "file": name})

    def drop(self, record: Mapping[str, Any], reason: str) -> None:
        """Notes that a sample was asked and is not kept. Raises StoreError when the disk refuses.

        Args:
            record: as of `add`; what was never known is None.
            reason: `wrong answer`, `failed: ...`, or another in a few words; `counts` counts what is before a colon.
        """
        self._append({**record, "kept": False, "reason": reason, "file": None})

    def pairs(self) -> list[Pair]:
        """The kept samples in the order of their ids, read from the disk.

        Raises:
            UserError: a tensor file is gone or damaged.
        """
        return [self._pair(self.records[name]) for name in sorted(self.records) if self.records[name]["kept"]]

    def counts(self) -> dict[str, int]:
        """How many were `asked` and `kept`, and how many were not kept by reason (`wrong answer`, `failed`, ...)."""
        reasons = Counter(record["reason"].partition(":")[0] for record in self.records.values() if record["reason"])
        return {"asked": len(self.records), "kept": len(self), **dict(sorted(reasons.items()))}

    def close(self) -> None:
        """Has the disk keep everything and gives the lock back; safe to call twice."""
        if self._journal:
            self._journal.close()

    def _pair(self, record: dict[str, Any]) -> Pair:
        path = self.folder / record["file"]
        try:
            tensors = load_file(path)
            attention, relevance = tensors["attention"], tensors["relevance"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(
                f"{path}, the tensors of sample {record['id']}, cannot be read ({' '.join(str(error).split())[:200]}); "
                f"remove the sample's line from {self._file} and collect again"
            ) from error
        grids = [(time, height, width) for time, height, width in record["grids"]]
        return Pair(record["id"], record["group"], record["source"], attention, relevance, grids)

    def _append(self, record: dict[str, Any]) -> None:
        if self._journal is None:
            raise ValueError(f"{self.folder} was opened for reading")
        self._journal.append(record)
        self.records[record["id"]] = record

    def _parse(self, lines: Sequence[bytes]) -> dict[str, dict[str, Any]]:
        """The last record of each id."""
        records: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                kept, reason = record["kept"], record["reason"]
                if not isinstance(kept, bool) or kept != (reason is None) or kept != isinstance(record["file"], str):
                    raise ValueError
                records[record["id"]] = record
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"line {number} of {self._file} is not a sample that retain wrote") from error
        return records


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()})


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        version = manifest["version"]
    except FileNotFoundError:
        raise UserError(f"{folder} is no training set: it has no dataset.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the description of a training set") from error
    if version != VERSION:
        raise UserError(f"{path}: version {version!r}; this retain reads version {VERSION}")
    return manifest


def _same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """UserError where two manifests differ, naming the first place."""
    was, now = (_flat({key: each[key] for key in each if key not in FREE}) for each in (found, wanted))
    for key in [*was, *now]:
        if was.get(key) != now.get(key):
            raise UserError(
                f"{path}: {key} was {was.get(key)!r} and is {now.get(key)!r} now; samples of different settings are "
                "not put together: give --out another folder"
            )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for part in value for name, leaf in _flat(value[part], f"{key}.{part}".lstrip(".")).items()}
