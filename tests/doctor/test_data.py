"""Data that is there, half there, or not; told by benchmark, with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from harness.doctor import data as benchmarks
from harness.doctor.check import Check
from harness.experiments import load
from tests.benchmarks import layouts
from tests.doctor.hub import Hub, serving

LAID_OUT = {
    "Video-MME": layouts.video_mme,
    "MVBench": layouts.mvbench,
    "MMBench-Video": layouts.mmbench_video,
    "NExT-QA-MC": layouts.next_qa,
    "NExT-QA-OE": layouts.next_oe,
    "ActivityNet-QA": layouts.activitynet,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "videos.zip").write_bytes(b"x" * 3000)
    with serving({"datasets/OpenGVLab/MVBench": tmp_path / "sets"}) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


def look(data: Path | None, table: str = "table3") -> tuple[dict[str, Check], int]:
    found, size = benchmarks.checks([load(table, "paper", data=data)], data)
    return {check.name: check for check in found}, size


def test_all_there(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for lay_out in LAID_OUT.values():
        lay_out(folder)
    before = sorted(str(path) for path in folder.rglob("*"))
    found, size = look(folder)
    assert {name: check.state for name, check in found.items()} == dict.fromkeys(LAID_OUT, "ok")
    assert found["NExT-QA-MC"].said == "4 questions about 2 videos, all there"
    assert size == 0 and hub.asked == []
    assert sorted(str(path) for path in folder.rglob("*")) == before, "nothing is unpacked or written"


def test_nothing_there(hub: Hub, tmp_path: Path) -> None:
    for data, why in ((None, "no data folder is given"), (tmp_path / "none", "there is no folder")):
        found, size = look(data)
        assert list(found) == list(LAID_OUT) and {check.state for check in found.values()} == {"missing"}
        assert all(check.said.startswith(why) for check in found.values())
        assert "goes to DATA/NExT-QA/test.csv and map_vid_vidorID.json; videos in" in found["NExT-QA-MC"].said
        assert "DATA/hub/datasets--OpenGVLab--MVBench; the hub has it: 2.9 KiB" in found["MVBench"].said
        assert "has no dataset lmms-lab/Video-MME" in found["Video-MME"].said
        assert size == 3000


def test_half_there(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for lay_out in LAID_OUT.values():
        lay_out(folder)
    archive = next((folder / "hub" / "datasets--lmms-lab--Video-MME").rglob("*.zip"))
    archive.write_bytes(archive.read_bytes()[:-40])
    blobs = folder / "hub" / "datasets--OpenGVLab--MVBench" / "blobs"
    (blobs / "0123.incomplete").write_bytes(b"a part")
    next((folder / "NExT-QA" / "NExTVideo").rglob("*.mp4")).unlink()
    next((folder / "ActivityNet-QA").glob("test_a.json")).write_text("[{")
    found, _ = look(folder)
    states = {name: check.state for name, check in found.items()}
    assert states == {name: "ok" if name == "MMBench-Video" else "missing" for name in LAID_OUT} | {
        "NExT-QA-OE": states["NExT-QA-OE"]
    }
    assert f"{archive} is no whole zip file" in found["Video-MME"].said
    assert "1 files are half downloaded; `hf download OpenGVLab/MVBench" in found["MVBench"].said
    assert "which is not there: no " in found["NExT-QA-MC"].said
    assert "cannot be read as JSON" in found["ActivityNet-QA"].said
    assert hub.asked == [], "what has begun is not asked for"


def test_image_benchmarks(tmp_path: Path) -> None:
    layouts.mme(tmp_path)
    found, _ = look(tmp_path, "table2")
    assert found["MME"].state == "missing" and "has not the md5 that VLMEvalKit knows" in found["MME"].said
    assert (
        found["MMStar"].state == "missing" and "MMStar.tsv does not exist; get it from https://" in found["MMStar"].said
    )


def test_sets_that_are_none_of_the_papers(tmp_path: Path) -> None:
    """A TSV of one's own has no md5 to be held against; what the kit reads from elsewhere is told as not looked at."""
    layouts.tsv(tmp_path, "Mine", [layouts.choice_row(0)])
    chosen = load("table2", "paper").model_copy(update={"benchmarks": ["Mine", "LongVideoBench"]})
    (mine, other), _ = benchmarks.checks([chosen], tmp_path)
    assert (mine.state, other.state) == ("ok", "warning") and other.said == "is not looked at before the run"
