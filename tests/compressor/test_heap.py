"""What a training step frees, the next one finds again."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from harness.compressor import heap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
SIZE, TIMES = 2**27, 5
"""In two blocks, each larger than what glibc may learn to keep by itself (32 MiB)."""
PAGES = SIZE // resource.getpagesize()
CODE = f"""
import contextlib, resource, sys, torch
from harness.compressor import heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TIMES}):
        blocks = [torch.ones({SIZE // 2}, dtype=torch.uint8) for _ in range(2)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

usual, before = faults(), resident()
with heap.kept():
    for _ in range(4):  # until blocks lie so that each finds room where another was
        faults()
    kept, held = faults(), resident()
print(usual, kept, held - before, resident() - before, faults())
"""


def test_blocks_are_kept_within_and_handed_back_after() -> None:
    usual_heap = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, env=usual_heap)
    usual, kept, held, left, again = map(int, done.stdout.split())
    assert usual > PAGES * TIMES / 2 and kept < PAGES / 10
    assert held > PAGES / 2 and left < PAGES / 10
    assert again > PAGES / 2, "what was handed back is met as fresh pages"


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    with heap.kept():
        pass
