"""`make table3 PROFILE=paper`: its commands in turn, over small checkpoints and data in the published layouts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants

from harness.experiments import load
from harness.experiments.loader import HERE
from harness.models import model_info
from harness.scoring import wordnet
from tests.conftest import Said
from tests.data.conftest import servers
from tests.loopback_hub import Hub, Repository, folder_files, serving
from tests.project.repository import ROOT, plain_environment
from tests.scoring.conftest import KEY, LoopbackJudge, loopback
from tests.tiny import add_compressors, tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

__all__ = ["loopback", "servers"]
pytestmark = pytest.mark.long
MODELS = {
    "llava-onevision-qwen2-7b-ov-hf": tiny_llava_onevision,
    "Qwen2-VL-7B-Instruct": tiny_qwen2_vl,
    "Llama-3-VILA1.5-8b": lambda: tiny_vila(layout="hub"),
}


class NoWords:
    """A WordNet without an entry: the same word is 1, any other 0."""

    base_forms = staticmethod(lambda word, part: [])
    first_sense = staticmethod(lambda word: None)


@pytest.fixture
def table3(tmp_path: Path, loopback: LoopbackJudge) -> Path:
    """The experiment as it is, but for judges on this machine and short answers."""
    content: Any = yaml.safe_load((HERE / "table3.yaml").read_text())
    judge = {"base_url": loopback.url, "model": "m", "key_env": "OPENAI_API_KEY"}
    content["profiles"]["paper"]["judges"] = {"MMBench-Video": judge, "ActivityNet-QA": judge}
    content["profiles"]["paper"]["max_new_tokens"] = 4
    loopback.reply = lambda payload: "{'pred': 'yes', 'score': 3}" if "'pred'" in str(payload) else "2"
    path = tmp_path / "table3.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def placed(servers: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with what nobody may hand on; the checkpoints are on the hub, at their pinned commits."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wordnet, "available", lambda: True)
    monkeypatch.setattr(wordnet.WordNet, "load", NoWords)
    data, published = tmp_path / "data", tmp_path / "published"
    shutil.copytree(published / "NExT-QA" / "NExTVideo", data / "NExT-QA" / "NExTVideo")
    shutil.make_archive(str(data / "ActivityNet-QA" / "all_test"), "zip", published / "ActivityNet-QA", "all_test")
    for name, make in MODELS.items():
        info = model_info(name)
        assert info.revision
        servers.models[info.path_or_hub_id] = Repository(folder_files(make()), commit=info.revision)
        (data / "compressors" / name).mkdir(parents=True)
        add_compressors(data / "compressors" / name)
    return data


def fetched(hub: Hub) -> set[str]:
    """Repository and revision of all whose files the hub was asked for."""
    asked = (path.strip("/").partition("/resolve/") for _, path, _ in hub.asked)
    return {f"{name}@{rest.split('/')[0]}" for name, found, rest in asked if found}


def test_doctor_data_and_run_in_turn(
    table3: Path, placed: Path, servers: Hub, loopback: LoopbackJudge, said: Said, monkeypatch: Any, tmp_path: Path
) -> None:
    where = [table3, "--profile", "paper", "--data", placed]
    store = ["--store", tmp_path / "runs"]
    with monkeypatch.context() as plugged:
        card = SimpleNamespace(name="A100", total_memory=80 * 10**9)
        plugged.setattr(torch.cuda, "device_count", lambda: 1)
        plugged.setattr(torch.cuda, "get_device_properties", lambda _: card)
        plugged.setattr(torch.cuda, "mem_get_info", lambda _: (80 * 10**9, 80 * 10**9))
        status, out, err = said("doctor", *where, *store, "--before-data")
    assert (status, err) == (0, "") and "A100, 74.5 GiB" in out
    assert not fetched(servers)
    status, out, err = said("data", *where)
    assert status == 0 and f"All data is in {placed}" in out and "retain: " not in err
    servers.asked.clear()
    status, out, err = said("run", *where, *store, "--limit", 1)
    assert status == 0 and "retain: " not in err
    assert fetched(servers) == {f"{info.path_or_hub_id}@{info.revision}" for info in map(model_info, MODELS)}
    table = (tmp_path / "runs" / "tables" / "table3.md").read_text()
    assert table in out and "incomplete" not in table
    benchmarks = load(table3, "paper").benchmarks
    assert all(name in table for name in (*MODELS, *benchmarks, "FastV", "CNN (learned)", "Downsample", "Random"))
    answers = (tmp_path / "runs" / "cells").glob("*/predictions.jsonl")
    assert sum(len(path.read_text().splitlines()) for path in answers) == len(MODELS) * len(benchmarks) * 13
    assert loopback.requests and KEY not in out + err


def test_make_where_nothing_is_ready_lists_what_is_missing(tmp_path: Path) -> None:
    """In a folder of its own, with this interpreter in the place of an installed one."""
    for name in ("Makefile", "pyproject.toml", ".ci/lock.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = tmp_path / ".venv" / "bin" / "retain"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m harness.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    before = set(tmp_path.rglob("*"))
    with serving() as hub:
        environment = plain_environment() | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HUB_CACHE": str(tmp_path / "cache")}
        environment.pop("OPENAI_API_KEY", None)
        asked = ["make", "table3", "PROFILE=paper"]
        done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    missing = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("missing")]
    assert {area for area, _ in missing} >= {"models", "data", "judge"}
    assert {name for area, name in missing if area in ("models", "data")} >= {*MODELS, "Video-MME", "NExT-QA-MC"}
    assert f"Missing: {len(missing)}, which a run needs." in done.stdout
    told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(told) == 1 and told[0].startswith("retain: "), "the first that the run stops at"
    assert hub.asked and not fetched(hub) and set(tmp_path.rglob("*")) == before
