"""Disks that are really full where data is got, unpacked and shown, and where verdicts are kept."""

from __future__ import annotations

import os
import re
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from harness.data import fetch, unpack
from harness.store import Store
from model_wrappers.errors import UserError
from tests.benchmarks import layouts
from tests.data.conftest import servers
from tests.faults.test_disk import PAGE, sentence, told
from tests.faults.world import alone, disk, may_mount
from tests.judging.test_run import Answered, answered
from tests.loopback_hub import Hub
from tests.scoring.conftest import loopback
from tests.sweep.conftest import checkpoint, write_experiment

__all__ = ["answered", "checkpoint", "loopback", "servers"]
pytestmark = pytest.mark.skipif(not may_mount(), reason="mounts need root or user namespaces")
ROOM = 1 << 24


def test_data_that_does_not_fit(servers: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else takes the room after it was looked at. What is got until then is gone on with."""
    monkeypatch.setattr(fetch, "check_room", lambda *_: None)
    data = tmp_path / "data"
    data.mkdir()

    def grow() -> None:
        size, faults = PAGE, []
        disk(data, size)
        while True:
            status, err = told(["data", "MME", "Video-MME", "NExT-QA-MC", "--data", data])
            assert status == 2, "NExT-QA's videos are placed by hand"
            said = [line for line in err.splitlines() if line.startswith("retain: ")]
            if not any(re.search("full|No space|are free", line) for line in said):
                break
            assert 1 <= len(said) <= 3, err
            faults.append(" ".join(said))
            size *= 2
            disk(data, size, again=True)
        assert len(faults) >= 4 and any("Video-MME: " in each for each in faults)
        (line,) = said
        assert "must be placed by hand" in line and (data / "LMUData" / "MME.tsv").is_file()

    alone(grow)


def test_an_archive_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that was free when it was looked at is another's when a video is written."""
    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1 << 40))
    archive = tmp_path / "videos.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for number in range(4):
            opened.writestr(f"{number}.mp4", os.urandom(2 * PAGE))
    folder = tmp_path / "disk"
    folder.mkdir()

    def refuse() -> None:
        disk(folder, 5 * PAGE)
        for _ in range(2):
            with pytest.raises(UserError, match=f"{folder}/video cannot be unpacked into: No space left on device"):
                unpack.unpack([archive], folder / "video")
            assert not (folder / "video").exists(), "half of it would be taken for the whole"
        disk(folder, 16 * PAGE, again=True)
        unpack.unpack([archive], folder / "video")
        assert len(list((folder / "video").iterdir())) == 4

    alone(refuse)


def test_pictures_that_do_not_fit(tmp_path: Path, checkpoint: Path) -> None:
    """It is no sample's fault: the run stops, and none is recorded as failed."""
    layouts.mmstar(tmp_path / "data")
    path = write_experiment(tmp_path, checkpoint, [{"method": "vanilla"}], ("MMStar",))
    store = tmp_path / "runs"
    command: list[object] = ["run", path, "--profile", "paper", "--data", tmp_path / "data", "--store", store]
    Store(store).pictures.mkdir(parents=True)

    def refuse() -> None:
        disk(Store(store).pictures, PAGE)
        (Store(store).pictures / "full").write_bytes(bytes(PAGE))
        status, err = told(command)
        assert status == 2 and "No space left on device" in sentence(err) and str(store) in err, err
        given = "".join(file.read_text() for file in store.glob("cells/*/predictions.jsonl"))
        assert '"error": "' not in given
        disk(Store(store).pictures, ROOM, again=True)
        assert told(command)[0] == 0

    alone(refuse)


def test_verdicts_that_do_not_fit(answered: Answered) -> None:
    """What was paid for and kept is not asked again when there is room."""
    folder = answered.store.root / "judge"
    folder.mkdir()
    where = ["--profile", "paper", "--data", answered.folder / "data", "--store", answered.store.root]

    def refuse() -> None:
        disk(folder, 4 * PAGE)
        status, err = told(["run", answered.path, *where])
        assert status == 2 and f"{folder}/" in sentence(err) and "the disk is full" in sentence(err), err
        kept = sum(file.read_bytes().count(b"\n") for file in folder.glob("*.jsonl"))
        disk(folder, ROOM, again=True)
        assert told(["run", answered.path, *where])[0] == 0
        lines = [file.read_bytes() for file in folder.glob("*.jsonl")]
        assert sum(line.count(b"\n") for line in lines) == 7 >= kept

    alone(refuse)
