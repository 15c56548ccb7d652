"""Tiny checkpoints of the three families with compressors, and how they are asked to be measured."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.efficiency.request import Request, check
from tests.tiny import add_compressors, tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

BUILT = {"qwen2_vl": tiny_qwen2_vl, "llava_onevision": tiny_llava_onevision, "vila": tiny_vila}
TOKENS = {"qwen2_vl": 24, "llava_onevision": 24, "vila": 32}
"""Of a video: 12 steps of time, 6 frames, 2 frames."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family."""
    found = {}
    for name, build in BUILT.items():
        found[name] = tmp_path_factory.mktemp("tiny") / name
        shutil.copytree(build(), found[name])
        add_compressors(found[name])
    return found


@pytest.fixture(autouse=True)
def little_garbage() -> Iterator[None]:
    """Before each measurement the garbage is collected: not among all that other tests have left in this process."""
    gc.freeze()
    yield
    gc.unfreeze()


def asked(folder: Path, **changes: Any) -> Request:
    """A small request for a video."""
    settings = {"methods": ["random"], "keeps": [0.5], "media": "video", "repeats": 2, "decoded": 3, **changes}
    return check(str(folder), settings.pop("tokens", TOKENS[folder.name]), **settings)
