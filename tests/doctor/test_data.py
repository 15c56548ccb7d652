"""Data that is there, half there, or not; told by benchmark, with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.data.sources import PAPER, SOURCES, command
from harness.data.state import missing
from harness.doctor import data as benchmarks
from harness.doctor.check import Check
from harness.experiments import load
from harness.vlmevalkit import kit
from tests.benchmarks import layouts
from tests.loopback_hub import Hub, Repository, serving, use

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
    with serving() as served:
        use(served, monkeypatch)
        served.datasets["OpenGVLab/MVBench"] = Repository({"videos.zip": b"x" * 3000}, ("main", "video"))
        yield served


def look(data: Path | None, table: str = "table3") -> tuple[dict[str, Check], int]:
    found, size = benchmarks.checks([load(table, "paper", data=data)], data)
    return {check.name: check for check in found}, size


def test_all_there(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.benchmarks.witness._known", lambda *_: iter(()))  # nobody publishes layouts
    folder = tmp_path / "data"
    for lay_out in LAID_OUT.values():
        lay_out(folder)
    before = sorted(str(path) for path in folder.rglob("*"))
    found, size = look(folder)
    archived = {"Video-MME", "MMBench-Video"}
    assert {name: check.state for name, check in found.items()} == {
        name: "warning" if name in archived else "ok" for name in LAID_OUT
    }
    assert found["NExT-QA-MC"].said == f"is in {folder / 'NExT-QA'}"
    assert all("video is not unpacked, `retain data" in found[name].said for name in archived)
    packed = [path for path in (folder / "hub").rglob("*") if path.suffix in (".zip", ".pkl")]
    files = [file for known in SOURCES.values() for file in known.files]
    assert all((folder / file.place).is_file() for file in files if file.needed)
    assert size == sum(path.stat().st_size for path in packed) and hub.asked == []
    assert sorted(str(path) for path in folder.rglob("*")) == before, "nothing is unpacked or written"


def test_nothing_there(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `retain run` says it, without --data too; and the disk that it takes: what is unpacked, twice."""
    monkeypatch.chdir(tmp_path)
    for data, place, option in ((None, tmp_path / PAPER, ""), (tmp_path / "none", tmp_path / "none", " --data ")):
        found, size = look(data)
        assert list(found) == list(LAID_OUT) and {check.state for check in found.values()} == {"missing"}
        for name, told in zip(LAID_OUT, missing(LAID_OUT, place), strict=True):
            assert f"{name}: {found[name].said}".startswith(told), told
            assert f"`retain data {name}{option}" in found[name].said
        assert f"put them into {place}/NExT-QA/NExTVideo" in found["NExT-QA-MC"].said
        assert found["MVBench"].said.endswith("the hub has it: 2.9 KiB")
        assert "the dataset lmms-lab/Video-MME is not on the hub" in found["Video-MME"].said
        assert found["Video-MME"].said.endswith("it is about 95 GB")
        files = sum(file.size for known in SOURCES.values() for file in known.files if file.needed)
        assert size == 3000 + 2 * 95 * 10**9 + files


def test_half_there(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for lay_out in LAID_OUT.values():
        lay_out(folder)
    archive = next((folder / "hub" / "datasets--lmms-lab--Video-MME").rglob("*.zip"))
    archive.write_bytes(archive.read_bytes()[:-40])
    mvbench = folder / "hub" / "datasets--OpenGVLab--MVBench"
    (mvbench / "blobs" / "0123.incomplete").write_bytes(b"a part")
    whole = {str(path.relative_to(snapshot(mvbench))): path.read_bytes() for path in [snapshot(mvbench) / "test.json"]}
    hub.datasets["OpenGVLab/MVBench"].files.update(whole)
    (folder / "NExT-QA" / "NExTVideo" / "4001.mp4").unlink()
    next((folder / "ActivityNet-QA").glob("test_q.json")).write_text("[{")
    found, room = look(folder)
    states = {name: check.state for name, check in found.items()}
    assert states == dict.fromkeys(LAID_OUT, "missing") | {"MMBench-Video": "warning"}
    assert f"{archive} is no whole zip file" in found["Video-MME"].said
    assert "its download was not finished, `retain data MVBench" in found["MVBench"].said
    assert "1 of its videos (4001.mp4 is the first) must be placed by hand" in found["NExT-QA-MC"].said
    assert "cannot be read as JSON" in found["ActivityNet-QA"].said
    assert found["MVBench"].said.endswith("; the hub has the rest: 2.9 KiB"), "of what has begun, what is here is not"
    packed = sum(path.stat().st_size for path in (folder / "hub").rglob("*.pkl"))
    video_mme = folder / "hub" / "datasets--lmms-lab--Video-MME"
    here = sum(path.stat().st_size for path in snapshot(video_mme).rglob("*") if path.is_file())
    assert room == 3000 + 2 * 95 * 10**9 - here + packed


def snapshot(repository: Path) -> Path:
    (found,) = (repository / "snapshots").iterdir()
    return found


def test_image_benchmarks(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that a TSV takes is what its server says, less what is here; one that does not say is told."""
    for name, cls in (("MMStar", "ImageMCQDataset"), ("SEEDBench_IMG", "ImageMCQDataset"), ("MMVet", "MMVet")):
        module = kit(f"vlmeval.dataset.{'image_vqa' if name == 'MMVet' else 'image_mcq'}")
        known = getattr(module, cls)
        monkeypatch.setattr(known, "DATASET_URL", {**known.DATASET_URL, name: f"{hub.url}/{name}.tsv"})
    hub.plain |= {"/MMStar.tsv": b"x" * 5000, "/MMVet.tsv": b"x" * 4096}
    layouts.mme(tmp_path)
    (tmp_path / "LMUData" / "MMVet.tsv.part").write_bytes(b"x" * 1024)
    found, room = look(tmp_path, "table2")
    assert room == 5000 + 3072
    assert found["MMVet"].said.endswith(f"{command('MMVet', tmp_path)} goes on with it; 3.0 KiB are to come")
    assert found["SEEDBench_IMG"].said.endswith("; its size is not known, as its server does not tell")
    assert found["MME"].state == "missing" and "has not the md5 that VLMEvalKit knows" in found["MME"].said
    assert found["MMStar"].state == "missing"
    assert (
        found["MMStar"].said
        == f"{tmp_path}/LMUData/MMStar.tsv is not there, {command('MMStar', tmp_path)} gets it; 4.9 KiB are to come"
    )


def test_sets_that_are_none_of_the_papers(tmp_path: Path) -> None:
    layouts.tsv(tmp_path, "Mine", [layouts.choice_row(0)])
    chosen = load("table2", "paper").model_copy(update={"benchmarks": ["Mine", "LongVideoBench"]})
    found, _ = benchmarks.checks([chosen], tmp_path)
    assert [(each.state, each.said) for each in found] == [("warning", "is not looked at before the run")] * 2


def test_generated_data_in_a_folder_that_was_asked_for(tmp_path: Path) -> None:
    chosen = load("table3")
    (check,), _ = benchmarks.checks([chosen], None)
    assert (check.state, check.said) == ("ok", "are made in results/data by the first run")
    for name in chosen.benchmarks:
        (check,), _ = benchmarks.checks([chosen, chosen], tmp_path)
        assert check.state == "missing" and check.said.count(name) == 1 and f"{tmp_path} lacks " in check.said
        LAID_OUT[name](tmp_path)
    assert benchmarks.checks([chosen], tmp_path) == ([Check("data", "micro editions", "ok", f"are in {tmp_path}")], 0)
