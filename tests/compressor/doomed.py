"""Workers that end badly, or only say where they run, in a module that a process loads in no time."""

from __future__ import annotations

import os
import signal
from typing import Any

from model_wrappers.errors import UserError


def killed(pipe: Any, job: Any, samples: list[str], device: str | None) -> None:
    """Tells of its first sample and is killed at the second."""
    pipe.send(("outcome", ({"id": samples[0]}, "wrong answer", None, None)))
    os.kill(os.getpid(), signal.SIGKILL)


def mistaken(pipe: Any, job: Any, samples: list[str], device: str | None) -> None:
    """Cannot open its model."""
    pipe.send(("mistake", UserError("No checkpoint folder m.")))


def faulty(pipe: Any, job: Any, samples: list[str], device: str | None) -> None:
    """Meets a fault of the code."""
    pipe.send(("fault", "Traceback: here"))


def echoing(pipe: Any, job: Any, samples: list[str], device: str | None) -> None:
    """Says of each sample on which device it would be asked."""
    for sample in samples:
        pipe.send(("outcome", ({"id": sample, "device": device}, "wrong answer", None, None)))
    pipe.send(("done", None))
