"""A model whose decoding kills its process at some messages, in a module that a process can load."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from model_wrappers.errors import SampleError

SLOW = 0.02
"""Seconds that the text `slow` takes."""


class Doomed:
    """Decodes a text to itself, the process that did it, and the data set. `once`: a folder where it notes whom it has
    killed.
    """

    def __init__(self, once: Path) -> None:
        self.once = once

    def decoder(self) -> Doomed:
        return self

    def decode(self, message: list[dict[str, Any]], dataset: str | None = None) -> tuple[str, int, str | None]:
        text = message[0]["value"]
        if text == "slow":
            time.sleep(SLOW)
        if text == "wrong":
            raise SampleError("The text says wrong.")
        if text == "always" or (text == "once" and not (self.once / "killed").exists()):
            (self.once / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "forever":
            (self.once / "begun").touch()
            signal.pause()
        return text, os.getpid(), dataset
