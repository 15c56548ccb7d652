"""A benchmark with its data: VLMEvalKit's dataset object, and the few questions that the harness asks it."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from harness.benchmarks import Benchmark
from harness.data import manifest
from harness.data.sources import command
from model_wrappers.errors import UserError


class OpenBenchmark:
    """A benchmark whose data has been read and checked.

    `entry`: the registry's Benchmark; `name`: its name; `modality`: `image` or `video`. `dataset`: the kit's dataset
    object. `rows`: its DataFrame, one row a sample, with the column `index`. `frames`: frames a video. `pictures`: the
    folder of its frames and decoded images. Positions `i` count rows from 0; predictions are keyed by the column
    `index`, see `indices`. Reading is thread-safe.
    """

    def __init__(self, entry: Benchmark, dataset: Any, data: Path, frames: int, pictures: Path | None = None) -> None:
        self.entry = entry
        self.name = entry.name
        self.modality = entry.modality
        self.dataset = dataset
        self.data = data
        self.frames = frames
        self.pictures = (pictures or data / "LMUData" / "images").resolve() / str(dataset.dataset_name)
        # The kit's objects are told by attributes where to keep pictures: one thread at a time.
        self._lock = threading.RLock()

    @classmethod
    def open(cls, entry: Benchmark, data: Path, frames: int, pictures: Path | None = None) -> OpenBenchmark:
        """See `harness.benchmarks.open_benchmark`."""
        from harness.benchmarks.images import open_images
        from harness.benchmarks.videos import open_videos

        if wrong := manifest.fault(data, entry.scored_as):
            again = f"{command(entry.scored_as, data)} goes on with it"
            raise UserError(f"{entry.name} is not all there in {data}: {wrong}; {again}")
        opened = (open_images if entry.modality == "image" else open_videos)(entry, data, frames, pictures)
        if len(opened.rows) == 0:
            raise UserError(f"{entry.name} has no questions in {data}")
        repeated = opened.rows["index"][opened.rows["index"].duplicated()]
        if len(repeated):
            file = getattr(opened.dataset, "data_file", None) or getattr(opened.dataset, "data_path", data)
            raise UserError(f"{entry.name}: index {repeated.iloc[0]} is given twice in {file}")
        opened._check()
        if entry.scored_as == "kit":
            from harness.scoring.kit_scores import refuse_if_judged

            refuse_if_judged(opened)
        return opened

    def _check(self) -> None:
        """Raise UserError for what is wrong with the media."""

    @property
    def rows(self) -> pd.DataFrame:
        """The questions: one row a sample."""
        return self.dataset.data

    @cached_property
    def indices(self) -> list[int | str]:
        """The keys of the samples (column `index`) in order, as plain Python values."""
        return [value if isinstance(value, str) else int(value) for value in self.rows["index"]]

    def __len__(self) -> int:
        return len(self.rows)

    def message(self, i: int, *, video_llm: bool = True) -> list[dict[str, str]]:
        """The kit's message for sample `i`: as its `infer_data` builds it for a model with no prompt of its own.

        `video_llm=True`: the model gets the video file and samples the frames; False: `frames` frames as images. Images
        are files in both cases. Raises SampleError when what the sample shows is empty, gone or no picture.
        """
        raise NotImplementedError

    def dump_image(self, line: Any) -> list[str]:
        """The pictures of row `line` as files: what the kit's `model.set_dump_image` wants. Only for images.

        Raises SampleError when a picture cannot be decoded.
        """
        raise NotImplementedError

    def media(self, i: int) -> list[str]:
        """The video or image files of sample `i`."""
        raise NotImplementedError

    def problem(self, i: int) -> str | None:
        """Why the media of sample `i` cannot be read, in a sentence, or None. Opens the files: for after a failure."""
        raise NotImplementedError

    @cached_property
    def clusters(self) -> list[str]:
        """By position, which video or picture a sample is about. Samples of one cluster are not independent."""
        raise NotImplementedError

    @cached_property
    def digest(self) -> str:
        """sha256 of the questions and of what they show."""
        raise NotImplementedError


def cannot_open(entry: Benchmark, data: Path, error: Exception) -> Exception:
    """What to raise where the kit's class of a data set fails on its data: itself, but for sets whose files we do not
    check: then it can only be the data, or what the kit wants to download.
    """
    if isinstance(error, UserError) or entry.scored_as != "kit":
        return error
    reason = f"{type(error).__name__}: {first_sentence(error)}"
    return UserError(f"{entry.name}: VLMEvalKit cannot open its data in {data} ({reason})")


def first_sentence(error: Exception) -> str:
    """What is wrong. The hub's advice that follows (to change its environment) does not hold here: we set it."""
    said = getattr(error, "strerror", None) or str(error)
    return " ".join(said.split()).split(". ")[0]
