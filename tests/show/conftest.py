"""Tiny models of the three families with compressors, and what they were asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.models import open_model
from harness.show.gather import Gathered, ask
from harness.show.request import check
from tests.families.media import picture, video
from tests.tiny import add_compressors, tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

BUILT = {"qwen2_vl": tiny_qwen2_vl, "llava_onevision": tiny_llava_onevision, "vila": tiny_vila}
PIXELS = {"qwen2_vl": {"min_pixels": 84 * 84, "max_pixels": 140 * 140, "nframe": 4}}
QUESTION = "What is it?"


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture and a video, neither of them square."""
    folder = tmp_path_factory.mktemp("media")
    shown = {"image": picture(folder / "blocks.png", 130, 70), "video": video(folder / "blocks.mp4", 12)}
    return {kind: Path(path) for kind, path in shown.items()}


@pytest.fixture(scope="session", params=list(BUILT))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tiny model, read from a folder of its own with a compressor for each kind of input."""
    folder = tmp_path_factory.mktemp("tiny") / request.param
    shutil.copytree(BUILT[request.param](), folder)
    add_compressors(folder)
    settings: dict[str, Any] = {"nframe": 3, **PIXELS.get(request.param, {}), "max_new_tokens": 8, "device": "cpu"}
    model = open_model(str(folder), **settings)
    yield model
    model.close()


@pytest.fixture(scope="session", params=["image", "video"])
def gathered(request: pytest.FixtureRequest, model: Any, media: dict[str, Path]) -> Gathered:
    """What a model says of the picture, and of the video."""
    shown: dict[str, Path | None] = {"image": None, "video": None, request.param: media[request.param]}
    return ask(model, check(model.model_path, QUESTION, **shown, keeps=[0.5, 0.25]))
