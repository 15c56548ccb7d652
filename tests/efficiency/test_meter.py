"""The most memory of a block: really measured on a CPU; the calls on CUDA, where there is none, in their order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.bench.meter import peak_memory
from model_wrappers.selection import settle

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MIB = 2**20


@pytest.mark.parametrize("earlier", [0, 200])
def test_what_a_block_holds_at_most(earlier: int) -> None:
    torch.ones(earlier * MIB // 4 + 1)  # and lets go of
    with peak_memory(CPU) as peak:
        for _ in range(3):
            torch.ones(48 * MIB // 4)
    assert 47 * MIB <= peak.bytes < 64 * MIB  # Linux counts resident pages in batches


def test_a_block_that_holds_nothing() -> None:
    with peak_memory(CPU) as peak:
        pass
    assert peak.bytes < 2 * MIB


def test_on_cuda_queued_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    allocated = {"memory_allocated": 100, "max_memory_allocated": 350}
    for name in ("synchronize", "reset_peak_memory_stats", *allocated):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: (calls.append(name), allocated.get(name))[1])
    with peak_memory(CUDA) as peak:
        calls.append("work")
    assert peak.bytes == 250
    before, after = calls[: calls.index("work")], calls[calls.index("work") + 1 :]
    assert before == ["synchronize", "reset_peak_memory_stats", "memory_allocated"]
    assert after == ["synchronize", "max_memory_allocated"]
    settle(CUDA)
    assert calls[-1] == "synchronize"
    settle(CPU)
    assert len(calls) == len(before) + len(after) + 2
