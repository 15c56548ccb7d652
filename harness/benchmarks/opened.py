"""A benchmark with its data: VLMEvalKit's dataset object, and the few questions that the harness asks it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import threading
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import portalocker

from harness.benchmarks import Benchmark, hub
from harness.vlmevalkit import data_root, kit, quiet
from model_wrappers.errors import SampleError, UserError

# Columns that pandas would turn into numbers or NaN when the kit reads its TSV: `None`, `N/A`, `007` are answers.
_TEXT = ("video", "video_path", "prefix", "question", "answer", "candidates", "dimensions", "task_type")
_PLACES = ("video_path", "subtitle_path")
_HEAD = 1 << 16


class OpenBenchmark:
    """A benchmark whose data has been read and checked.

    `entry`: the registry's Benchmark; `name`: its name. `dataset`: the kit's dataset object. `rows`: its DataFrame, one
    row a sample, with the column `index`. `frames`: frames a video. Positions `i` count rows from 0; predictions are
    keyed by the column `index`, see `indices`. Reading is thread-safe.
    """

    def __init__(self, entry: Benchmark, dataset: Any, data: Path, frames: int) -> None:
        self.entry = entry
        self.name = entry.name
        self.dataset = dataset
        self.data = data
        self.frames = frames
        self._frames_lock = threading.Lock()

    @classmethod
    def open(cls, entry: Benchmark, data: Path, frames: int, *, download: bool = False) -> OpenBenchmark:
        """See `harness.benchmarks.open_benchmark`."""
        if not data.is_dir():
            raise UserError(f"the data folder {data} does not exist")
        data = data.resolve()
        folder = hub.check(entry.name, data, download=download)
        unpacked = [folder / part for part in ("video", "subtitle")] if folder else []
        fresh = [part for part in unpacked if not part.exists()]
        with data_root(data, offline=not download):
            try:
                # The kit unpacks and rewrites its TSV in place; another process must not read half of it.
                with portalocker.Lock(data / "LMUData" / f"{entry.name}.lock", timeout=3600), quiet():
                    dataset = getattr(kit(entry.module), entry.class_name)(dataset=entry.kit_dataset, nframe=frames)
            except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
                # The kit takes an existing folder for a complete one; a half-unpacked one must not stay.
                for part in fresh:
                    shutil.rmtree(part, ignore_errors=True)
                raise UserError(f"{entry.name}: an archive with videos in {folder} is damaged ({error})") from error
            except OSError as error:
                raise UserError(f"{entry.name}: {error.filename or data}: {error.strerror or error}") from error
        opened = cls(entry, dataset, data, frames)
        opened._mend_text()
        opened._check()
        return opened

    def _mend_text(self) -> None:
        """Undo what reading a TSV without a schema did to text columns."""
        path = Path(self.dataset.data_file)
        if path.suffix != ".tsv":
            return
        raw = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        for column in _TEXT:
            if column in raw:
                self.rows[column] = raw[column].to_numpy(dtype=object)
        self.dataset.videos = sorted(set(self.rows["video"]))

    def _check(self) -> None:
        if len(self.rows) == 0:
            raise UserError(f"{self.name} has no questions in {self.data}")
        repeated = self.rows["index"][self.rows["index"].duplicated()]
        if len(repeated):
            raise UserError(f"{self.name}: index {repeated.iloc[0]} is given twice in {self.dataset.data_file}")
        for path, position in self._files.items():
            if not Path(path).is_file():
                raise UserError(
                    f"{self.name}: video {path} of question {self.indices[position]} does not exist; if an unpacking "
                    f"was cut short, delete {Path(path).parent} and it is unpacked again"
                )

    @property
    def rows(self) -> pd.DataFrame:
        """The questions: one row a sample."""
        return self.dataset.data

    @cached_property
    def indices(self) -> list[int | str]:
        """The keys of the samples (column `index`) in order, as plain Python values."""
        return [value if isinstance(value, str) else int(value) for value in self.rows["index"]]

    @cached_property
    def _files(self) -> dict[str, int]:
        """Every video file once, with the position of the first question about it."""
        columns = [column for column in ("prefix", "video") if column in self.rows]
        first = ~self.rows.duplicated(columns)
        files: dict[str, int] = {}
        for position in (i for i, keep in enumerate(first) if keep):
            for path in self.media(position):
                files.setdefault(path, position)
        return files

    def __len__(self) -> int:
        return len(self.rows)

    def message(self, i: int, *, video_llm: bool = True) -> list[dict[str, str]]:
        """The kit's message for sample `i`: as its `infer_data` builds it for a model with no prompt of its own.

        `video_llm=True`: the model gets the video file and samples the frames; False: `frames` frames as images.
        Raises SampleError when the sample's video is empty or gone.
        """
        for path in self.media(i):
            _refuse_unreadable(path)
        if video_llm:
            return self.dataset.build_prompt(int(i), video_llm=True)
        with self._frames_lock:
            shared = self.dataset.frame_root
            # The kit keeps frames under the video's bare name: those of a namesake or of an older file would be taken.
            self.dataset.frame_root = os.path.join(shared, self._frames_key(i))
            try:
                os.makedirs(self.dataset.frame_root, exist_ok=True)
                return self.dataset.build_prompt(int(i), video_llm=False)
            finally:
                self.dataset.frame_root = shared

    def _frames_key(self, i: int) -> str:
        files = []
        for path in self.media(i):
            stat = os.stat(path)
            files.append((os.path.relpath(path, self.data), stat.st_size, stat.st_mtime_ns))
        return hashlib.sha256(repr(files).encode()).hexdigest()[:12]

    def media(self, i: int) -> list[str]:
        """The video files of sample `i`."""
        return [part["value"] for part in self.dataset.build_prompt(int(i), video_llm=True) if part["type"] == "video"]

    def problem(self, i: int) -> str | None:
        """Why the media of sample `i` cannot be read, in a sentence, or None. Opens the files: for after a failure."""
        import decord

        for path in self.media(i):
            try:
                _refuse_unreadable(path)
                if len(decord.VideoReader(path)) == 0:
                    return f"video {path} has no frames"
            except SampleError as error:
                return str(error)
            except (decord.DECORDError, RuntimeError, OSError):
                return f"video {path} cannot be decoded; it is damaged or not a video"
        return None

    @cached_property
    def digest(self) -> str:
        """sha256 of the questions and the videos: names, sizes, first and last 64 KiB (micro's files: all of them)."""
        hashed = hashlib.sha256()
        columns = sorted(column for column in self.rows.columns if column not in (*_PLACES, "prediction"))
        for line in self.rows[columns].to_dict("records"):
            hashed.update(json.dumps(line, sort_keys=True, default=str).encode())
        for path in sorted(self._files):
            size = Path(path).stat().st_size
            hashed.update(f"{Path(path).name} {size}".encode())
            with open(path, "rb") as file:
                hashed.update(file.read(_HEAD))
                file.seek(max(_HEAD, size - _HEAD))
                hashed.update(file.read())
        return hashed.hexdigest()


def _refuse_unreadable(path: str) -> None:
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise SampleError(f"video {path} does not exist any more ({error.strerror})") from error
    if size == 0:
        raise SampleError(f"video {path} is empty (0 bytes)")
