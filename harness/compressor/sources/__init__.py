"""Where a compressor's training samples come from: data sets in their published layouts, and JSONL files of one's own.

`find` recognises what lies in a folder; `draw.draw` takes a seeded, balanced sample of it; `splits` knows which videos
are a benchmark's test split.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model_wrappers.errors import SampleError, UserError

log = logging.getLogger(__name__)

Kind = Literal["image", "video"]

MIXES: dict[Kind, dict[str, int]] = {
    "video": {"LLaVA-Video-178K": 7000, "NExT-QA": 6000, "ActivityNet-QA": 4000},
    "image": {"Infinity-MM GPT-4": 9000, "Infinity-MM synthetic": 4000},
}
"""Samples asked of each source (arXiv 2506.01097, appendix B). Of a JSONL file of one's own all are."""


@dataclass(frozen=True)
class Media:
    """A picture or video: a file, or a stretch of a tar archive."""

    path: Path
    offset: int | None = None
    """First byte in the archive; None: the whole file is meant."""
    size: int = 0
    """Bytes in the archive."""
    name: str = ""
    """File name in the archive."""

    def exists(self) -> bool:
        """Whether the file (or archive) is there and not empty."""
        try:
            return self.path.stat().st_size > 0
        except OSError:
            return False

    @contextlib.contextmanager
    def file(self) -> Iterator[tuple[Path, str | None]]:
        """The medium as a file; what an archive holds is a temporary one. With it, the sha256 of what was unpacked.

        Raises:
            SampleError: the archive cannot be read.
        """
        if self.offset is None:
            yield self.path, None
            return
        with tempfile.TemporaryDirectory(prefix="retain-collect-") as folder:
            try:
                with self.path.open("rb") as archive:
                    archive.seek(self.offset)
                    content = archive.read(self.size)
            except OSError as error:
                raise SampleError(f"{self.path} cannot be read: {error.strerror}") from error
            unpacked = Path(folder) / Path(self.name).name
            unpacked.write_bytes(content)
            yield unpacked, hashlib.sha256(content).hexdigest()[:32]


@dataclass(frozen=True)
class Sample:
    """One question about one picture or video, with its right answer."""

    id: str
    """Unique in a training set: begins with the source."""
    source: str
    group: str | None
    """The video or picture it is about, the same for all questions about it; None: what an archive holds, by content.
    """
    media: Kind
    file: Media
    question: str
    """Bare, as a judge reads it."""
    prompt: str
    """What the model is asked: with options and instructions."""
    answer: str
    options: tuple[str, ...] = ()
    """Of multiple choice: the texts, in the order of their letters; `answer` is then the right letter."""


Read = Callable[[Counter[str]], Iterator[Sample]]
"""Reads a part's samples and counts, by reason, what it leaves out."""


@dataclass(frozen=True)
class Source:
    """One data set. Its parts are asked equally often: the strata of a balanced sample."""

    name: str
    media: Kind
    parts: dict[str, Read]
    amount: int | None
    """How many samples of it are asked for; None is all."""
    where: str
    """Its folder or file."""


def find(path: Path) -> list[Source]:
    """What is recognised in a folder (or a JSONL file), by its published layout.

    Args:
        path: a folder with any of the layouts, at any depth, and `.jsonl` files directly in it; or one `.jsonl` file.

    Raises:
        UserError: nothing is recognised, a file is malformed, or it is a benchmark's test split.
    """
    from harness.compressor.sources import activitynet_qa, infinity_mm, jsonl, llava_video, nextqa, splits

    if path.is_file():
        splits.refuse_file(path)
        if path.suffix != ".jsonl":
            raise UserError(f"--data {path}: give a folder, or a .jsonl file of {jsonl.KEYS}")
        return jsonl.find([path])
    if not path.is_dir():
        raise UserError(f"--data {path}: there is no such file or folder")
    files = listed(path)
    lines = [file for file in files if file.parent == path and file.suffix == ".jsonl"]
    own = [file for file in lines if not splits.is_test_name(file)]
    for file in set(lines) - set(own):
        log.warning("%s is left alone: it is a test split by its name", file)
    # The official NExT-QA and ActivityNet-QA come first: the copies beside LLaVA-Video-178K hold the same questions.
    found: dict[str, Source] = {}
    for source in [
        *nextqa.find(files),
        *activitynet_qa.find(files),
        *llava_video.find(files),
        *infinity_mm.find(files),
        *jsonl.find(own),
    ]:
        found.setdefault(f"{source.name} {source.media}", source)
    unnamed = infinity_mm.unnamed(files)
    if not found:
        splits.refuse_only_tests(path, files)
        known = (
            "nothing in it is known; known are LLaVA-Video-178K, NExT-QA (train.csv), ActivityNet-QA "
            f"(train_q.json, train_a.json), Infinity-MM (stage4) and .jsonl files of {jsonl.KEYS}"
        )
        raise UserError(f"--data {path}: {unnamed or known}")
    if unnamed:
        log.warning(unnamed)
    return list(found.values())


SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".tar", ".parquet")
"""Of files that can hold questions."""
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def listed(folder: Path) -> list[Path]:
    """The files under a folder that can hold questions, sorted."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in names if name.endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def read_json(path: Path) -> Any:
    """A JSON file's content. Raises UserError where it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({' '.join(str(error).split())[:120]})") from error


def entries(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The entries of a JSON file that is a list of objects with `keys`. Raises UserError where it is none."""
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} must be a list of entries with the keys {', '.join(keys)}")
    for number, entry in enumerate(content, start=1):
        for key in keys:
            if not isinstance(entry, dict) or key not in entry:
                raise UserError(f"{path}, entry {number}, has no key {key!r}; it needs {', '.join(keys)}")
    return content


def videos_under(folder: Path) -> dict[str, Path]:
    """The videos under a folder, at any depth, by file name without suffix."""
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEOS:
                found.setdefault(stem, Path(parent) / name)
    return found
