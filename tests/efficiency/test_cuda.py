"""The way over CUDA as far as a CPU can go: only what `torch.cuda` answers is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.bench.machine import machine
from harness.efficiency import measure as measuring
from harness.efficiency import report, shapes, summary
from harness.efficiency.plot import _figure
from tests.efficiency.conftest import asked

GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: GPU)


def test_random_weights_are_made_on_it_in_bfloat16(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    given, inner = [], shapes.build

    def build(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
        given.append((device, dtype))
        return inner(config, "meta", dtype)  # where there is no such device

    request = replace(asked(folders["qwen2_vl"]), random_weights=True)
    monkeypatch.setattr(shapes, "build", build)
    with measuring._opened(request) as model:
        assert model.dtype == torch.bfloat16 and (Path(model.name_or_path) / "compressor-video").is_dir()
    assert given == [(torch.device("cuda"), torch.bfloat16)]


def test_a_measurement_names_it(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_cpu = measuring.measure
    with monkeypatch.context() as without:
        without.setattr(torch.cuda, "is_available", lambda: False)
        found = on_cpu(asked(folders["qwen2_vl"], repeats=1))
    assert found.device == "CPU" == measuring.device_name(torch.device("cpu"))
    there = replace(found, device=measuring.device_name(torch.device("cuda", 0)), dtype="bfloat16", machine=machine())
    entry = summary.as_json(there)
    said = report.hardware(entry)
    assert entry["machine"]["gpu"] == GPU and said.startswith(f"{GPU}, CUDA ({entry['machine']['cpu']}, ")
    assert "; bfloat16, torch " in said and f"- {said}." in report.table(entry)
    assert report.add([summary.as_json(found)], entry)[1] is entry, "beside the CPU's, not in its place"
    report.write([entry], tmp_path / "cuda.json")
    assert report.read(tmp_path / "cuda.json")[0]["device"] == GPU
    assert said in _figure([entry]).subfigs[0].get_suptitle()
