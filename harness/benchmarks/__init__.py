"""The benchmarks by name, and how to open one.

Importing this package costs nothing: pandas, torch and VLMEvalKit come only with `open_benchmark`, or with a
name that is none of the paper's.
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
    `kind`: `choice` (a letter is right or wrong), `yes/no`, `open` (free text against a reference) or `other` (only
    VLMEvalKit's own evaluation knows).
    `scale`: the headline lies in 0..scale: 100 for percent, 3 for MMBench-Video's judge, 2800 for MME.
    `metric`: the official metric, in words.
    `needs_judge`: the official metric cannot be had without a judge.
    `modality`: what is shown: an `image` (or several) or a `video`.
    `scheme`: how it is scored: like the benchmark of that name, or one of `mcq`, `circular`, `yes/no`, `vqa`, `exact`,
    `kit` (see `harness.benchmarks.foreign`). Empty: like itself.
    """

    name: str
    kit_dataset: str
    module: str
    class_name: str
    kind: Literal["choice", "yes/no", "open", "other"]
    scale: float
    metric: str
    needs_judge: bool = False
    modality: Literal["image", "video"] = "video"
    scheme: str = ""

    @property
    def column(self) -> str:
        """The head of its column in the paper's tables."""
        return self.name

    @property
    def scored_as(self) -> str:
        """`scheme`, or its own name where that is empty."""
        return self.scheme or self.name


_BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark(
            "MME",
            "MME",
            "vlmeval.dataset.image_yorn",
            "ImageYORNDataset",
            "yes/no",
            2800.0,
            "perception + reasoning: accuracy + pair accuracy of each of 14 categories, 0 to 2800",
            modality="image",
        ),
        Benchmark(
            "MMStar",
            "MMStar",
            "vlmeval.dataset.image_mcq",
            "ImageMCQDataset",
            "choice",
            100.0,
            "accuracy",
            modality="image",
        ),
        Benchmark(
            "MMVet",
            "MMVet",
            "vlmeval.dataset.image_vqa",
            "MMVet",
            "open",
            100.0,
            "mean judge score",
            needs_judge=True,
            modality="image",
        ),
        Benchmark(
            "SEEDBench_IMG",
            "SEEDBench_IMG",
            "vlmeval.dataset.image_mcq",
            "ImageMCQDataset",
            "choice",
            100.0,
            "accuracy",
            modality="image",
        ),
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
    """The names of the paper's benchmarks, in the order of its columns."""
    return list(_BENCHMARKS)


def benchmark(name: str, data: str | Path | None = None) -> Benchmark:
    """The entry called `name`: one of the paper's, any data set registered in VLMEvalKit, or a TSV of one's own.

    `data`: the data folder, in which `LMUData/<name>.tsv` may lie; without it, TSVs of one's own are not known. A name
    that is none of the paper's loads VLMEvalKit (seconds).

    Raises UserError, listing the known names, when there is none.
    """
    if name in _BENCHMARKS:
        return _BENCHMARKS[name]
    from harness.benchmarks import foreign

    found = foreign.entry(name, None if data is None else Path(data), _BENCHMARKS.values())
    if found is None:
        where = "LMUData" if data is None else Path(data) / "LMUData"
        raise UserError(
            f"there is no benchmark {name!r}; known are {', '.join(_BENCHMARKS)}, every data set of VLMEvalKit by its "
            f"name there, and a TSV of your own in {where}"
        )
    return found


def open_benchmark(name: str, data: str | Path, frames: int, *, pictures: Path | None = None) -> OpenBenchmark:
    """Open `name` from the folder `data`, asking its dataset class for `frames` frames a video (images: no matter).

    Works from what is on disk: nothing is asked of the network, `retain data` does that. `pictures`: where frames and
    decoded images are kept, by content (default: in the data folder).

    Raises UserError for an unknown name, data that is missing or malformed, a missing video, a non-positive `frames`.
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise UserError(f"{name}: frames is {frames!r}; allowed are whole numbers from 1")
    if not Path(data).is_dir():
        raise UserError(f"the data folder {data} does not exist")
    entry = benchmark(name, data)
    from harness.benchmarks.opened import OpenBenchmark

    return OpenBenchmark.open(entry, Path(data).resolve(), frames, pictures)
