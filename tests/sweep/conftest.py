"""A small video set in the real layouts, a tiny checkpoint, and experiments over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.experiments import Experiment, load
from tests.benchmarks import layouts
from tests.tiny import tiny_qwen2_vl

ROWS: list[dict[str, Any]] = [
    {"method": "fastv", "fields": {"layer": 2}, "keep": [0.5, 0.25]},
    {"method": "vanilla"},
    {"method": "relevance", "keep": [0.5, 0.25]},
    {"method": "random", "keep": [0.5]},
]


SMALL = {"min_pixels": 3136, "max_pixels": 3136}
"""Frames of 56 x 56 pixels: Qwen2-VL makes 2 x 2 visual tokens of each pair."""


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return tiny_qwen2_vl(seed=5)  # whose answers differ from video to video and from cut to cut


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two benchmarks of four questions each."""
    folder = tmp_path_factory.mktemp("data")
    layouts.next_qa(folder)
    layouts.mvbench(folder)
    return folder


def write_experiment(
    folder: Path,
    checkpoint: Path,
    rows: list[dict[str, Any]] = ROWS,
    benchmarks: tuple[str, ...] = ("NExT-QA-MC", "MVBench"),
    settings: dict[str, Any] = SMALL,
    max_new_tokens: int = 4,
) -> Path:
    """An experiment file over a tiny checkpoint."""
    content = {
        "name": "small",
        "title": "Small",
        "benchmarks": list(benchmarks),
        "profiles": {
            "paper": {
                "models": [str(checkpoint)],
                "frames": 8,
                "model_settings": {str(checkpoint): settings} if settings else {},
                "max_new_tokens": max_new_tokens,
                "rows": rows,
            }
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def experiment(tmp_path: Path, checkpoint: Path) -> Callable[..., Experiment]:
    """Makes experiments: model, its settings, rows, benchmarks and max_samples may be given."""

    def make(max_samples: int | None = None, model: Path = checkpoint, **changes: Any) -> Experiment:
        return load(write_experiment(tmp_path, model, **changes), "paper", max_samples=max_samples)

    return make
