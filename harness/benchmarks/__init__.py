"""The benchmarks by name, and how to open one.

Importing this package costs nothing: pandas, torch and VLMEvalKit come only with `open_benchmark`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from harness.benchmarks.opened import OpenBenchmark


@dataclass(frozen=True)
class Benchmark:
    """What the tables and the scoring must know of a benchmark before its data is opened.

    `name`: as in the paper's tables, which is also the column's head (`column`).
    `kit_dataset`: VLMEvalKit's `dataset_name`; it decides which prompt a model class builds.
    `module`, `class_name`: where the dataset class lives.
    `kind`: `choice` (a letter is right or wrong) or `open` (free text against a reference).
    `scale`: the headline lies in 0..scale: 100 for percent, 3 for MMBench-Video's judge.
    `metric`: the official metric, in words.
    `needs_judge`: the official metric cannot be had without a judge.
    """

    name: str
    kit_dataset: str
    module: str
    class_name: str
    kind: Literal["choice", "open"]
    scale: float
    metric: str
    needs_judge: bool = False

    @property
    def column(self) -> str:
        """The head of its column in the paper's tables."""
        return self.name


_BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark("Video-MME", "Video-MME", "vlmeval.dataset.videomme", "VideoMME", "choice", 100.0, "accuracy"),
        Benchmark("MVBench", "MVBench_MP4", "vlmeval.dataset.mvbench", "MVBench_MP4", "choice", 100.0, "accuracy"),
        Benchmark(
            "MMBench-Video",
            "MMBench-Video",
            "vlmeval.dataset.mmbench_video",
            "MMBenchVideo",
            "open",
            3.0,
            "mean judge rating, 0 to 3",
            needs_judge=True,
        ),
        Benchmark("NExT-QA-MC", "NExT-QA", "harness.benchmarks.nextqa", "NExTQA", "choice", 100.0, "accuracy"),
        Benchmark("NExT-QA-OE", "NExT-OE", "harness.benchmarks.nextqa", "NExTOE", "open", 100.0, "WUPS, threshold 0"),
        Benchmark(
            "ActivityNet-QA",
            "ActivityNet-QA",
            "harness.benchmarks.activitynet_qa",
            "ActivityNetQA",
            "open",
            100.0,
            "judge accuracy where a judge is configured, else exact match",
        ),
    )
}


def benchmark_names() -> list[str]:
    """The names, in the order of the paper's columns."""
    return list(_BENCHMARKS)


def benchmark(name: str) -> Benchmark:
    """The entry called `name`. Raises UserError, listing the known names, when there is none."""
    if name not in _BENCHMARKS:
        raise UserError(f"there is no benchmark {name!r}; known are {', '.join(_BENCHMARKS)}")
    return _BENCHMARKS[name]


def open_benchmark(name: str, data: str | Path, frames: int, *, download: bool = False) -> OpenBenchmark:
    """Open `name` from the folder `data`, asking its dataset class for `frames` frames a video.

    `download=False` works from what is on disk and never touches the network.

    Raises UserError for an unknown name, data that is missing or malformed, a missing video, a non-positive `frames`.
    """
    entry = benchmark(name)
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise UserError(f"{name}: frames is {frames!r}; allowed are whole numbers from 1")
    from harness.benchmarks.opened import OpenBenchmark

    return OpenBenchmark.open(entry, Path(data), frames, download=download)
