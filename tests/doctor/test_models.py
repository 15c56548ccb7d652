"""Checkpoints in the hub's cache, whole or not; at the hub, which may not answer; pinned or not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from harness.doctor import hub as remote
from harness.doctor import models
from harness.doctor.hub import Repository
from harness.experiments import Experiment, load
from tests.loopback_hub import COMMIT, Hub, folder_files, serving, use
from tests.loopback_hub import Repository as Served
from tests.sweep.conftest import write_experiment
from tests.tiny import add_compressors, tiny_qwen2_vl

QWEN = "Qwen2-VL-7B-Instruct"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, and an empty cache."""
    (tmp_path / "cache").mkdir()
    with serving() as served:
        use(served, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        served.models[f"Qwen/{QWEN}"] = Served(folder_files(tiny_qwen2_vl()))
        yield served


@pytest.fixture
def asked(tmp_path: Path) -> Experiment:
    settings = {"revision": COMMIT}
    return load(write_experiment(tmp_path, Path(QWEN), [{"method": "vanilla"}], settings=settings), "paper")


def snapshot(tmp_path: Path) -> Path:
    """The tiny checkpoint where the hub's cache would have the large one."""
    root = tmp_path / "cache" / f"models--Qwen--{QWEN}"
    shutil.copytree(tiny_qwen2_vl(), root / "snapshots" / COMMIT)
    (root / "blobs").mkdir()
    return root / "snapshots" / COMMIT


def test_what_the_hub_has_is_counted_and_not_downloaded(hub: Hub, asked: Experiment, tmp_path: Path) -> None:
    (check,), download = models.checks([asked], None)
    wanted = [file for file in tiny_qwen2_vl().rglob("*") if file.suffix in (".json", ".safetensors", ".txt", ".jinja")]
    assert download == sum(file.stat().st_size for file in wanted) > 0
    assert (check.name, check.state) == (QWEN, "warning") and "are downloaded on first use" in check.said
    # The client may ask for other things, once a process.
    asked_for = {path for _, path, _ in hub.asked if QWEN in path}
    assert asked_for == {f"/api/models/Qwen/{QWEN}/revision/{COMMIT}"} and not list((tmp_path / "cache").iterdir())


def test_a_whole_and_a_broken_checkpoint_in_the_cache(hub: Hub, asked: Experiment, tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    (check,), download = models.checks([asked], None)
    assert (check.state, check.said, download) == ("ok", f"in the hub's cache at {COMMIT[:12]}, whole", 0)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (check,), _ = models.checks([asked], None)
    assert check.state == "missing" and "is in the hub's cache in part" in check.said
    assert f"`hf download Qwen/{QWEN} --revision {COMMIT}` completes it" in check.said and hub.asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (500, "cannot be had: the hub ({url}) fails (500); repeat the command later"),
        (403, "is gated: accept its terms at {url}"),
        (401, "cannot be had: the hub ({url}) refuses it (401); log in with `hf auth login`"),
    ],
)
def test_a_hub_that_refuses(hub: Hub, asked: Experiment, answer: int, said: str) -> None:
    hub.faults = lambda _: answer
    (check,), download = models.checks([asked], None)
    assert (check.state, download) == ("missing", 0)
    assert f"the model Qwen/{QWEN} {said.format(url=hub.url)}" in check.said
    assert check.said.startswith(f"Qwen/{QWEN} is not in the hub's cache, and ")


def test_a_revision_or_model_that_the_hub_has_not(hub: Hub) -> None:
    gone, absent = Repository("model", f"Qwen/{QWEN}", "nowhere"), Repository("model", "nobody/nothing", None)
    found = remote.ask([gone, absent])
    assert f"Qwen/{QWEN} has no revision nowhere on the hub ({hub.url}/Qwen/{QWEN})" in found[gone].problem
    assert f"nobody/nothing is not on the hub ({hub.url}), or is private" in found[absent].problem


def test_a_hub_that_hangs_is_left_after_a_while(hub: Hub, asked: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults = lambda _: "hang"
    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    start = time.monotonic()
    (check,), _ = models.checks([asked], None)
    assert check.state == "missing" and "does not answer in 0.3 seconds" in check.said
    assert time.monotonic() - start < 20, "the server would take 60"


def test_nobody_listens(asked: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (check,), _ = models.checks([asked], None)
    assert check.state == "missing" and "the connection to the hub (http://127.0.0.1:9) fails" in check.said


def test_offline_asks_nobody(hub: Hub, asked: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (check,), _ = models.checks([asked], None)
    assert check.state == "missing" and "the hub is not asked, since HF_HUB_OFFLINE is set" in check.said
    assert hub.asked == []


def test_a_branch_is_not_pinned(hub: Hub, tmp_path: Path) -> None:
    settings = {"revision": "main"}
    chosen = load(write_experiment(tmp_path, Path(QWEN), [{"method": "vanilla"}], settings=settings), "paper")
    found, _ = models.checks([chosen], None)
    assert [check.state for check in found] == ["warning", "warning"]
    assert found[1].name == f"{QWEN} revision" and "main is no commit, so it may move" in found[1].said


def test_a_compressor_for_each_kind_of_media(tmp_path: Path) -> None:
    """None is missing with the command; the embedded models' own are there."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_qwen2_vl(), folder, ignore=shutil.ignore_patterns("compressor-*"))
    rows = [{"method": "cnn", "keep": 0.5}]
    for state, said in (("missing", "retain compressor train"), ("ok", "is there")):
        if state == "ok":
            add_compressors(folder)
        chosen = load(write_experiment(tmp_path, folder, rows, ("NExT-QA-MC", "MME")), "paper")
        _, *found = models.checks([chosen], tmp_path / "data")[0]
        assert [check.name for check in found] == [f"{folder.name} compressor, {kind}s" for kind in ("image", "video")]
        assert all(check.state == state and said in check.said for check in found)
