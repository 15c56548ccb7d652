"""A worker that notes what it does, in a module that Ray's processes import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from harness import models
from harness.sweep import answering, decoding
from harness.sweep.remote import Message, Worker
from harness.sweep.shards import Shard
from model_wrappers.families.common import FamilyModel

NOTES = "notes.txt"
"""In the driver's store; a line is a process and what it did."""


class Counting(Worker):
    """One process decodes for it, as if it had a GPU."""

    def ready(self) -> Message:
        open_model, encode, start = models.open_model, FamilyModel.encode, decoding._Decoder.start

        def opening(*given: Any, **settings: Any) -> Any:
            self.note("open")
            return open_model(*given, **settings)

        def encoding(model: Any, decoded: Any) -> Any:
            self.note("encode")
            return encode(model, decoded)

        def starting(decoder: Any, made: bytes) -> None:
            self.note("start")
            start(decoder, made)

        def one(device: str, samples: int, share: int | None) -> int:
            self.note(f"share={share}")
            return 1

        models.open_model = opening
        FamilyModel.encode = encoding  # type: ignore[method-assign]
        decoding._Decoder.start = starting  # type: ignore[method-assign]
        answering.processes = one
        return super().ready()

    def answer(self, shard: Shard) -> Iterator[Message]:
        self.note("answer")
        yield from super().answer(shard)

    def note(self, what: str) -> None:
        assert self.pictures
        with (self.pictures.parent / NOTES).open("a") as notes:
            notes.write(f"{os.getpid()} {what}\n")
