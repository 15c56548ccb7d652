"""A worker that loses its device at one sample, in a module that Ray's processes import."""

from __future__ import annotations

from typing import Any

import torch

from harness import models
from harness.sweep import answering
from harness.sweep.remote import Message, Worker
from tests.faults.conftest import Model

ASSERTION = "CUDA error: device-side assert triggered"
BENCHMARK, INDEX = "NExT-QA-MC", 0


class Lossy(Worker):
    """The first text of that sample ends the device, as an index out of range in a kernel would."""

    def ready(self) -> Message:
        model, open_model, ask = Model(), models.open_model, answering._Pass._ask
        lost: list[bool] = []
        asked: list[tuple[str, Any]] = []

        def before_layer(number: int, hidden: torch.Tensor) -> None:
            if lost or asked[-1] == (BENCHMARK, INDEX):
                lost.append(True)
                raise torch.AcceleratorError(ASSERTION)

        def asking(self: Any, position: int, index: Any, *given: Any) -> None:
            asked.append((self.benchmark, index))
            ask(self, position, index, *given)

        model.before_layer = before_layer
        models.open_model = lambda *given, **settings: model.opened(open_model(*given, **settings))
        answering._Pass._ask = asking  # type: ignore[method-assign]
        answering.works = lambda device: not lost
        return super().ready()
