"""The most memory that a piece of work holds, on the device that it runs on."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """The most bytes held in one `with peak_memory(...)`, above what was held at its start."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measures the block: allocated bytes on CUDA, this process's resident ones on a CPU (Linux).

    What earlier work left in the allocator's hands is given back first, so that a block cannot hide in it.
    """
    peak = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None:
        trim(0)
    # Writing 5 there makes the kernel forget this process's high-water mark of resident memory.
    REFERENCES.write_text("5")
    before = _resident("VmRSS")
    yield peak
    peak.bytes = max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    lines = STATUS.read_text("utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
