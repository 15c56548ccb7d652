"""Benchmarks about videos, opened: VLMEvalKit's video datasets and those of this package."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import portalocker

from harness.benchmarks import Benchmark, hub
from harness.benchmarks.opened import OpenBenchmark, cannot_open, first_sentence
from harness.data import state
from harness.data.sources import SOURCES
from harness.data.unpack import unpack
from harness.identity import file_digest
from harness.vlmevalkit import data_root, kit, quiet
from model_wrappers.errors import SampleError, UserError

# Columns that pandas would turn into numbers or NaN when the kit reads its TSV: `None`, `N/A`, `007` are answers.
_TEXT = ("video", "video_path", "prefix", "question", "answer", "candidates", "dimensions", "task_type")
_PLACES = ("video_path", "subtitle_path")
_HEAD = 1 << 16


def open_videos(entry: Benchmark, data: Path, frames: int, pictures: Path | None) -> OpenVideos:
    """See `harness.benchmarks.open_benchmark`."""
    cls = getattr(kit(entry.module), entry.class_name)
    make = partial(cls, dataset=entry.kit_dataset, nframe=frames)
    variant = kit("vlmeval.dataset").supported_video_datasets.get(entry.name)
    if variant is not None:  # with what its name stands for besides the frames, such as subtitles
        if variant.keywords.get("nframe") != frames:
            asked = ", ".join(f"{key} {variant.keywords[key]}" for key in ("nframe", "fps") if key in variant.keywords)
            raise UserError(f"{entry.name} stands for {asked} in VLMEvalKit, but frames is {frames}")
        make = variant
    hub.check(entry.scored_as, data)
    with data_root(data):
        try:
            # The kit rewrites its TSV in place, and archives are unpacked; another process must not read half of it.
            with portalocker.Lock(data / "LMUData" / f"{entry.name}.lock", timeout=3600), quiet():
                _unpacked(entry, data)
                dataset = make()
        except OSError as error:
            raise UserError(f"{entry.name}: {error.filename or data}: {first_sentence(error)}") from error
        except Exception as error:
            raise cannot_open(entry, data, error) from error
    opened = OpenVideos(entry, dataset, data, frames, pictures)
    if entry.scored_as != "kit":
        opened.mend_text()
    return opened


def _unpacked(entry: Benchmark, data: Path) -> None:
    """Has the videos in archives unpacked, whole and safely: the kit takes any folder for a complete one."""
    if entry.scored_as in SOURCES:
        for archives, target in state.archives(SOURCES[entry.scored_as], data):
            unpack(archives, target)


class OpenVideos(OpenBenchmark):
    """A benchmark about videos."""

    def mend_text(self) -> None:
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
        for path, position in self._files.items():
            if not Path(path).is_file():
                raise UserError(
                    f"{self.name}: video {path} of question {self.indices[position]} does not exist; if an unpacking "
                    f"was cut short, delete {Path(path).parent} and it is unpacked again"
                )

    @cached_property
    def _shown(self) -> list[tuple[Any, ...]]:
        """By position, what names the video of a row."""
        columns = [column for column in ("prefix", "video") if column in self.rows]
        return [tuple(values) for values in self.rows[columns].itertuples(index=False)]

    @cached_property
    def _files_of(self) -> dict[tuple[Any, ...], tuple[int, list[str]]]:
        """By what names a video: the position of the first question about it, and its files."""
        found: dict[tuple[Any, ...], tuple[int, list[str]]] = {}
        for position, shown in enumerate(self._shown):
            if shown not in found:
                found[shown] = (position, self.media(position))
        return found

    @cached_property
    def _files(self) -> dict[str, int]:
        """Every video file once, with the position of the first question about it."""
        files: dict[str, int] = {}
        for position, paths in self._files_of.values():
            for path in paths:
                files.setdefault(path, position)
        return files

    def message(self, i: int, *, video_llm: bool = True) -> list[dict[str, str]]:
        """See the base class."""
        for path in self.media(i):
            _refuse_unreadable(path)
        if video_llm:
            return self.dataset.build_prompt(int(i), video_llm=True)
        with self._lock:
            shared = self.dataset.frame_root
            # The kit keeps frames under the video's bare name: those of a namesake or of an older file would be taken.
            kept = self.pictures / self._frames_key(i)
            # It also takes a frame that another process is writing for a whole one: they appear together.
            part = kept.with_name(f".{kept.name}.{os.getpid()}")
            self.dataset.frame_root = str(kept if kept.is_dir() else part)
            try:
                os.makedirs(self.dataset.frame_root, exist_ok=True)
                message = self.dataset.build_prompt(int(i), video_llm=False)
                if part.is_dir():
                    _put(part, kept)
            finally:
                self.dataset.frame_root = shared
                shutil.rmtree(part, ignore_errors=True)
        return [{**item, "value": item["value"].replace(str(part), str(kept))} for item in message]

    def _frames_key(self, i: int) -> str:
        found = []
        for path in self.media(i):
            stat = os.stat(path)
            found.append(_content(path, stat.st_size, stat.st_mtime_ns))
        frames = f"{self.dataset.fps:g}fps" if self.dataset.fps > 0 else f"{self.dataset.nframe}frames"
        return f"{hashlib.sha256(''.join(found).encode()).hexdigest()[:16]}-{frames}"

    def dump_image(self, line: Any) -> list[str]:
        """See the base class."""
        raise UserError(f"{self.name} has videos and no images")

    def media(self, i: int) -> list[str]:
        """See the base class."""
        return [part["value"] for part in self.dataset.build_prompt(int(i), video_llm=True) if part["type"] == "video"]

    def problem(self, i: int) -> str | None:
        """See the base class."""
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
    def clusters(self) -> list[str]:
        """See the base class: the path of the video in the data folder."""
        names = {
            shown: "|".join(os.path.relpath(path, self.data) for path in paths)
            for shown, (_, paths) in self._files_of.items()
        }
        return [names[shown] for shown in self._shown]

    @cached_property
    def digest(self) -> str:
        """sha256 of the questions and the videos: names, sizes, first and last 64 KiB (micro's files: all of them)."""
        hashed = hashlib.sha256()
        columns = sorted(column for column in self.rows.columns if column not in (*_PLACES, "prediction"))
        for line in self.rows[columns].to_dict("records"):
            hashed.update(json.dumps(line, sort_keys=True, default=str).encode())
        for path in sorted(self._files):
            hash_file(hashed, path)
        return hashed.hexdigest()


def _put(part: Path, kept: Path) -> None:
    """Rename a folder, unless another process has put its own there meanwhile, which has the same in it."""
    try:
        part.rename(kept)
    except OSError:
        if not kept.is_dir():
            raise


@lru_cache(maxsize=4096)
def _content(path: str, size: int, changed: int) -> str:
    """The sha256 of a file, read once for as long as its size and time stay."""
    return file_digest(Path(path))


def hash_file(hashed: Any, path: str) -> None:
    """Add a media file to the hash `hashed`: name, size, first and last 64 KiB."""
    size = Path(path).stat().st_size
    hashed.update(f"{Path(path).name} {size}".encode())
    with open(path, "rb") as file:
        hashed.update(file.read(_HEAD))
        file.seek(max(_HEAD, size - _HEAD))
        hashed.update(file.read())


def _refuse_unreadable(path: str) -> None:
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise SampleError(f"video {path} does not exist any more ({error.strerror})") from error
    if size == 0:
        raise SampleError(f"video {path} is empty (0 bytes)")
