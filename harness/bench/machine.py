"""The machine that is measured: its description, how long the command takes to start, and notes on the way."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import identity

STARTS = 5


def starts() -> dict[str, float]:
    """Median seconds of a fresh process: the bare interpreter, `retain --help`, and importing the library."""
    codes = {
        "python": "pass",
        "retain --help": "from harness.cli import main; main(['--help'])",
        "import model_wrappers": "import model_wrappers",
    }
    say("start-up")
    return {name: statistics.median(_start(code) for _ in range(STARTS)) for name, code in codes.items()}


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, cores, threads, packages."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **identity.origin(), **identity.versions()},
    }


def say(text: str) -> None:
    """Tells on stderr what is being measured."""
    print(f"measuring: {text}", file=sys.stderr, flush=True)


def _start(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    return time.perf_counter() - start


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
