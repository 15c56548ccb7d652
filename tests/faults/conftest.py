"""Small runs whose samples can be made to fail inside the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import models
from tests.sweep.conftest import checkpoint, videos, write_experiment

__all__ = ["Model", "checkpoint", "command", "model", "videos"]


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path, videos: Path) -> list[object]:
    """A run of 48 answers: 2 benchmarks of 4 samples, 6 cells each."""
    path = write_experiment(tmp_path, checkpoint)
    options = ["--profile", "paper", "--data", videos, "--store", tmp_path / "runs", "--workers", 1]
    return ["run", path, *options]


class Model:
    """The model that a run opens. `before_layer(number, hidden)` is called before each decoder layer; `encoded` are the
    prompts so far, whose last one is being answered.
    """

    def __init__(self) -> None:
        self.encoded: list[Any] = []
        self.before_layer: Callable[[int, Any], None] = lambda number, hidden: None
        self.before_encoding: Callable[[], None] = lambda: None

    def opened(self, wrapper: Any) -> Any:
        """Takes a freshly opened one."""
        encode = wrapper.encode

        def encoding(decoded: Any) -> Any:
            self.before_encoding()
            self.encoded.append(None)
            self.encoded[-1] = encode(decoded)
            return self.encoded[-1]

        wrapper.encode = encoding
        for number, layer in enumerate(wrapper.model.model.language_model.layers):
            layer.register_forward_pre_hook(lambda _, given, number=number: self.before_layer(number, given[0]))
        return wrapper


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made, open_model = Model(), models.open_model
    monkeypatch.setattr(models, "open_model", lambda *given, **settings: made.opened(open_model(*given, **settings)))
    return made
