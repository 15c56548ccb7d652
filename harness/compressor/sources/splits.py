"""Test splits: which videos and pictures a benchmark asks about, so that nothing is trained on them.

Ids are read from the benchmarks' own files, wherever they lie under the folders that are looked at:

    NExT-QA           test.csv                        video
    ActivityNet-QA    test_q.json                     video_name
    Video-MME         test-*.parquet, Video-MME.tsv   videoID, video
    MVBench           test.json, MVBench*.tsv         video
    MMBench-Video     MMBench-Video.tsv               video

A sample is refused where its video's file name (without suffix, and without `v_` or `ytb_` before it) is such an id.
A picture is refused where its pixels are those of one in a benchmark's `LMUData/*.tsv`, see `pictures`; one that was
resized or encoded anew with loss is not noticed. Nor is a video under another name.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from harness.benchmarks import benchmark, benchmark_names
from harness.compressor.sources import VIDEOS, Kind, Media, Sample, listed, pictures, read_json
from model_wrappers.errors import UserError

TEST_FILES = ("test.csv", "test_q.json", "test_a.json", "test.json", "add_reference_answer_test.json")
"""Names under which NExT-QA, ActivityNet-QA and MVBench publish their test splits."""
VIDEO_BENCHMARKS = ("NExT-QA", "ActivityNet-QA", "Video-MME", "MVBench", "MMBench-Video")
_PREFIXES = ("v_", "ytb_")


def is_test_name(path: Path) -> bool:
    """Whether a file says by its name that it is a test split."""
    return path.name in TEST_FILES or path.stem == "test" or path.name.startswith(("test-", "test_"))


def refuse_file(path: Path) -> None:
    """UserError where a file is a whole test split."""
    if is_test_name(path):
        raise UserError(f"{path} is a test split: a compressor is not trained on what it is measured with")


def refuse_only_tests(folder: Path, files: list[Path]) -> None:
    """UserError where test splits are all that lies in a folder."""
    if tests := [path for path in files if is_test_name(path)]:
        raise UserError(
            f"{folder} holds a test split ({tests[0].relative_to(folder)}) and no training data: a compressor is not "
            "trained on what it is measured with"
        )


class TestSplits:
    """The ids of the test videos that are known, `by_benchmark`, and the test pictures, read when first asked for."""

    __test__ = False  # to pytest

    def __init__(self, places: Iterable[Path]) -> None:
        """Reads every test split under the folders among `places`, and directly beside the files among them.

        Raises:
            UserError: one of them cannot be read.
        """
        self.by_benchmark: dict[str, set[str]] = {}
        self._tables: dict[Path, None] = {}
        self._shown: dict[Media, bool] = {}
        csv.field_size_limit(sys.maxsize)
        for place in places:
            for path in listed(place) if place.is_dir() else sorted(place.parent.glob("*")):
                if path.suffix == ".tsv" and path.parent.name == pictures.FOLDER:
                    self._tables[path] = None
                if found := _split(path):
                    self.by_benchmark.setdefault(found[0], set()).update(found[1])
        self._all = set[str]().union(*self.by_benchmark.values())

    def has(self, sample: Sample) -> bool:
        """Whether a sample shows a test video."""
        return sample.media == "video" and _plain(sample.file.path.stem) in self._all

    def shows(self, sample: Sample) -> bool:
        """Whether a sample shows a test picture. Decodes it, so ask of what is chosen, not of all that could be.

        Raises:
            UserError: a benchmark's file cannot be read.
        """
        if sample.media != "image" or not self._pictures:
            return False
        if sample.file not in self._shown:
            found = pictures.of_media(sample.file)
            self._shown[sample.file] = any(found in known for known in self._pictures.values())
        return self._shown[sample.file]

    @cached_property
    def _pictures(self) -> dict[str, set[str]]:
        """By benchmark the digests of its pictures."""
        found: dict[str, set[str]] = {}
        for path in self._tables:
            try:
                shown = pictures.of_benchmark(path)
            except (OSError, SyntaxError, ValueError, csv.Error) as error:
                raise _unreadable(path, error) from error
            if shown:
                found.setdefault(_micro(path) + path.stem, set()).update(shown)
        return found

    def counts(self) -> dict[str, int]:
        """How many ids of each benchmark are known, and how many pictures where a picture was asked about."""
        known = {**self.by_benchmark, **self.__dict__.get("_pictures", {})}
        return {name: len(known[name]) for name in sorted(known)}

    def unknown(self, media: Kind) -> list[str]:
        """The paper's benchmarks on such media of which no video or picture is known, so that none can be refused."""
        if media == "video":
            return [name for name in VIDEO_BENCHMARKS if name not in self.by_benchmark]
        images = [name for name in benchmark_names() if benchmark(name).modality == "image"]
        return [name for name in images if name not in self._pictures]


def _plain(stem: str) -> str:
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    return stem


def _split(path: Path) -> tuple[str, set[str]] | None:
    """The benchmark and the ids, without prefixes and suffixes, of a test split; None where a file is none.

    Raises:
        UserError: it cannot be read.
    """
    try:
        found = _read(path)
        if found is None:
            return None
        return _micro(path) + found[0], {_plain(_stem(str(name))) for name in found[1]}
    except UserError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _micro(path: Path) -> str:
    """Micro editions have the layouts of the benchmarks, not their videos and pictures."""
    return "micro " if any(part.startswith("micro-") for part in path.parts) else ""


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return UserError(f"{path}, a benchmark's test split, cannot be read ({reason})")


def _read(path: Path) -> tuple[str, Iterable[object]] | None:
    if path.name == "test.csv":
        names = _column(path, "video", ",")
        return None if names is None else ("NExT-QA", names)
    if path.suffix == ".tsv":
        for benchmark in ("Video-MME", "MVBench", "MMBench-Video"):
            if path.stem.startswith(benchmark) and (names := _column(path, "video", "\t")) is not None:
                return benchmark, names
    if path.name == "test_q.json":
        return "ActivityNet-QA", [entry["video_name"] for entry in read_json(path)]
    if path.name == "test.json" and "MVBench" in str(path):
        return "MVBench", [item["video"] for items in read_json(path)["meta"].values() for item in items]
    if path.name.startswith("test-") and path.suffix == ".parquet" and path.parent.name == "videomme":
        import pandas as pd

        return "Video-MME", pd.read_parquet(path, columns=["videoID"])["videoID"]
    return None


def _column(path: Path, column: str, separator: str) -> list[str] | None:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, delimiter=separator)
        return [row[column] for row in rows] if column in (rows.fieldnames or ()) else None


def _stem(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if last.lower().endswith(VIDEOS) else last
