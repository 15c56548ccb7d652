"""`retain doctor` as people and machines call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from harness.data.sources import SOURCES
from harness.doctor import disk
from harness.doctor.check import Check
from harness.experiments import load
from tests.conftest import Said


def test_the_embedded_default_is_well(said: Said, tmp_path: Path) -> None:
    status, out, err = said("doctor", "--store", tmp_path / "runs")
    assert (status, err) == (0, "") and out.rstrip().endswith("All is well.")
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_generated_data(said: Said, tmp_path: Path) -> None:
    """A run would stop for it."""
    status, out, _ = said("doctor", "table3", "--data", tmp_path, "--store", tmp_path / "runs")
    assert status == 1 and "Missing: 1, which a run needs." in out and "MVBench" in out


def test_real_data_may_still_be_to_come(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make` asks the doctor before `retain data`, which makes the folder that was asked for."""
    looked: list[Path | None] = []
    monkeypatch.setattr("harness.doctor.examine", lambda _, data, store: looked.append(data) or [])
    arguments = ["doctor", "table1", "--profile", "paper", "--store", tmp_path / "runs", "--data"]
    assert said(*arguments, tmp_path / "new")[0] == 0
    (tmp_path / "file").write_text("")
    status, _, err = said(*arguments, tmp_path / "file")
    assert status == 2 and f"--data {tmp_path / 'file'}: there is no such folder" in err
    assert looked == [tmp_path / "new"]


def test_the_papers_profile_says_what_is_missing(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-that-nobody-may-see-1234567890")
    monkeypatch.setattr("harness.doctor.judges.TIMEOUT", 0.001)
    status, out, _ = said("doctor", "table3", "--profile", "paper", "--json", "--store", tmp_path / "runs")
    found = json.loads(out)
    assert (status, found["profile"], found["well"]) == (1, "paper", False)
    missing = {(check["area"], check["name"]) for check in found["checks"] if check["state"] == "missing"}
    models = ["llava-onevision-qwen2-7b-ov-hf", "Qwen2-VL-7B-Instruct", "Llama-3-VILA1.5-8b"]
    assert {("models", name) for name in models} <= missing
    assert {("models", f"{name} compressor, videos") for name in models} <= missing
    assert ("data", "Video-MME") in missing and ("judge", "gpt-3.5-turbo-0125 for ActivityNet-QA") in missing
    assert "sk-a-key" not in out
    status, out, _ = said("doctor", "table3", "--profile", "paper", "--store", tmp_path / "runs")
    assert status == 1 and f"Missing: {len(missing)}, which a run needs." in out and "sk-a-key" not in out


def test_a_profile_that_nobody_has(said: Said) -> None:
    status, _, err = said("doctor", "--profile", "papr")
    assert status == 2 and "no experiment has a profile 'papr' (did you mean 'paper'?); allowed are micro, paper" in err


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to one file system is added up, and held against what is free there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    free = shutil.disk_usage(tmp_path).free
    (check,) = disk.checks(1 << 20, 0, tmp_path / "data", tmp_path / "runs")
    assert check.state == "ok" and check.said.startswith("1.0 MiB of weights and 1.0 GiB of answers to come, ")
    (check,) = disk.checks(free // 2, free // 2, tmp_path, tmp_path / "runs")
    assert check.state == "missing", "half for the weights, half for the data, and a gigabyte of answers"
    (check,) = disk.checks(0, 0, tmp_path, tmp_path / "runs", free)
    assert check.state == "warning" and "of pictures (at most: a guess) to come" in check.said


def test_pictures_are_a_share_of_the_room() -> None:
    """Every image once; frames by number for VILA, which alone takes no video."""
    table2, table3, table6 = (load(name, "paper") for name in ("table2", "table3", "table6"))
    videos = sum(SOURCES[name].questions for name in table3.benchmarks)
    images = sum(SOURCES[name].questions for name in table2.benchmarks)
    assert disk.pictures([table3, table3]) == 8 * videos * disk.PICTURE
    assert disk.pictures([table2, table3]) == (images + 8 * videos) * disk.PICTURE
    assert table6.benchmarks == table3.benchmarks and disk.pictures([table3, table6]) == 24 * videos * disk.PICTURE
    assert disk.pictures([table3.model_copy(update={"models": table3.models[:2]}), load("table3")]) == 0


def test_a_cluster_has_the_gpus(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command starts on one of its nodes, often one without a GPU; `auto` is this machine."""
    checks = [Check("GPU", "devices", "missing", "there is none")]
    monkeypatch.setattr("harness.doctor.examine", lambda *_: checks)
    status, _, err = said("doctor", "table7", "--ray", "nowhere")
    assert status == 2 and "--ray nowhere: allowed are auto and HOST:PORT" in err
    assert said("doctor", "table7", "--ray", "auto")[0] == 1
    monkeypatch.setattr("harness.sweep.cluster._fault", lambda *_: None)
    status, out, _ = said("doctor", "table7", "--ray", "head:6379")
    assert status == 0 and "there is none; with --ray the cluster's nodes answer" in out
    assert "All is well, with warnings: 1." in out


def test_what_retain_data_gets_is_no_reason_to_stop_before_it(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("data", "Video-MME", "missing", "is not there"), Check("judge", "m", "missing", "is retired")]
    monkeypatch.setattr("harness.scoring.wordnet.available", lambda: True)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setattr("harness.doctor.examine", lambda *_: checks)
    assert [said("doctor", "table3", "--profile", "paper", *more)[0] for more in ([], ["--before-data"])] == [1, 0]
    checks.append(Check("GPU", "devices", "missing", "there is none"))
    status, out, err = said("doctor", "table3", "--profile", "paper", "--before-data")
    assert status == 1 and "Missing: 3" in out
    assert (
        err
        == "retain: no data is downloaded while this is missing: devices (GPU); `retain data` gets it all the same\n"
    )
    monkeypatch.delenv("OPENAI_API_KEY")
    status, out, err = said("doctor", "table3", "--profile", "paper", "--before-data")
    assert status == 2 and "OPENAI_API_KEY" in err and err.count("\n") == 1, "the run would stop at this, too"
