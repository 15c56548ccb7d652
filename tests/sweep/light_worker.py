"""A worker without a model, in a module that loads in no time: Ray's processes import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.store import Answer
from harness.sweep.answering import Tally
from harness.sweep.remote import Done, Message
from harness.sweep.shards import Shard


class Light:
    """Its answer to a sample is its name; the samples in `deadly` end its process."""

    def __init__(self, deadly: set[int]) -> None:
        self.deadly = deadly

    def ready(self) -> Message:
        return "ready", None

    def answer(self, shard: Shard) -> Iterator[Message]:
        for index, cells in shard.wanted.items():
            if index in self.deadly:
                time.sleep(0.5)  # what was told before is on its way
                os.kill(os.getpid(), signal.SIGKILL)
            yield "answers", ([(cell, Answer(index, f"{index}")) for cell in cells], Tally(answered=len(cells)))
        yield "done", Done(1, 0.0)


class Seeing(Light):
    """Its answers are the GPU it sees and its share of the node's cores. It is ready when another one is, which they
    tell each other in the driver's store.
    """

    def __init__(self, plan: Any, data: Path, pictures: Path, home: str, node: str, share: int) -> None:
        super().__init__(set())
        self.store, self.share = pictures.parent, share

    def ready(self) -> Message:
        (self.store / f"ready-{os.getpid()}").touch()
        while len(list(self.store.glob("ready-*"))) < 2:
            time.sleep(0.01)
        return super().ready()

    def answer(self, shard: Shard) -> Iterator[Message]:
        said = f"GPU {os.environ['CUDA_VISIBLE_DEVICES']}, {self.share} cores"
        for kind, content in super().answer(shard):
            time.sleep(0.01)
            if kind == "answers":
                answers, tally = content
                content = [(cell, Answer(answer.index, said)) for cell, answer in answers], tally
            yield kind, content
