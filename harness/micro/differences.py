"""What VLMEvalKit's own LLaVA-OneVision class costs, measured on the micro model: its video prompts, in four variants.

`retain micro differences` writes results/micro/differences.json. The stock class itself runs (on the CPU, in float32);
each variant mends one of its two faults or both, so that each fault's share is seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from harness import identity
from harness.benchmarks import open_benchmark
from harness.disk import write_atomically
from harness.micro.prompts import VIDEO_FORMATS
from harness.models import open_model
from harness.scoring import score

COMMAND = ".venv/bin/retain micro differences"
MODEL, FRAMES = "micro-llava-onevision", 8
VARIANTS = {
    "stock": (True, True),
    "stock, frames as asked": (True, False),
    "stock, no stray <image>": (False, True),
    "stock, both mended": (False, False),
}
"""Name -> (keeps the stray `<image>`, keeps the stock frames)."""


def measure(data: Path) -> dict[str, Any]:
    """Percent of right answers of every variant and of our class on every video benchmark."""
    ours = open_model(MODEL)
    ours.nframe, ours.fps = FRAMES, None
    accuracy: dict[str, dict[str, float]] = {name: {} for name in [*VARIANTS, "ours"]}
    try:
        for benchmark in VIDEO_FORMATS:
            opened = open_benchmark(benchmark, data, FRAMES)
            for name in accuracy:
                model = ours if name == "ours" else _stock(ours, *VARIANTS[name])
                accuracy[name][benchmark] = _accuracy(model, opened, f"{name}, {benchmark}")
    finally:
        ours.close()
    means = {name: round(fmean(values.values()), 1) for name, values in accuracy.items()}
    asked = {"command": COMMAND, **identity.origin(), "model": MODEL, "frames": FRAMES}
    return {**asked, "mean_pct": means, "accuracy_pct": accuracy}


def write(data: Path, path: Path) -> dict[str, Any]:
    """Measures and writes; returns what was written."""
    found = measure(data)
    write_atomically(path, json.dumps(found, indent=1) + "\n")
    return found


def _accuracy(model: Any, opened: Any, label: str) -> float:
    answers: dict[int | str, str | None] = {}
    with torch.no_grad(), _on_the_cpu():
        for position, index in enumerate(tqdm(opened.indices, desc=label, leave=False)):
            answers[index] = model.generate_inner(opened.message(position), opened.dataset.dataset_name)
    return round(100 * fmean(score(opened, answers).per_sample.values()), 1)


def _stock(ours: Any, stray: bool, frames: bool) -> Any:
    """VLMEvalKit's class over our model and processor: its own __init__ needs a GPU."""
    from vlmeval.vlm.llava.llava import LLaVA_OneVision_HF

    class Stock(LLaVA_OneVision_HF):  # type: ignore[misc]
        def load_video(self, path: str, most: int, fps: float = 1, force_sample: bool = False) -> Any:
            return super().load_video(path, most, fps, force_sample=force_sample or not frames)

    made = Stock.__new__(Stock)
    made.model, made.processor, made.nframe, made.force_sample = ours.model, ours.processor, FRAMES, False
    if not stray:
        made.DEFAULT_IMAGE_TOKEN = ""
    return made


@contextmanager
def _on_the_cpu() -> Iterator[None]:
    """The stock class moves its inputs to CUDA in float16."""
    from transformers import BatchFeature

    real = BatchFeature.to
    BatchFeature.to = lambda self, *where, **how: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        BatchFeature.to = real  # type: ignore[method-assign]


def table(found: dict[str, Any]) -> str:
    """Markdown: a variant a row."""
    from tabulate import tabulate

    names = list(next(iter(found["accuracy_pct"].values())))
    lines = [
        [variant, *(f"{values[name]:.1f}" for name in names), f"{np.mean(list(values.values())):.1f}"]
        for variant, values in found["accuracy_pct"].items()
    ]
    return tabulate(lines, headers=["class", *names, "mean"], tablefmt="github", disable_numparse=True)
