"""`retain data`, and a run that finds data missing: from servers on this machine, in the published layouts."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import portalocker
import pytest
import tqdm

from harness.benchmarks import open_benchmark
from harness.data import manifest, sources
from harness.data.state import state
from tests.benchmarks import layouts
from tests.conftest import Said
from tests.loopback_hub import COMMIT, Hub


def test_everything_is_got_and_then_opened(servers: Hub, said: Said, tmp_path: Path) -> None:
    data, published = tmp_path / "data", tmp_path / "published"
    status, out, err = said("data", "--data", data)
    assert status == 2, "videos are placed by hand"
    hand = [line for line in err.splitlines() if line.startswith("retain: ")]
    assert [line.split(":")[1].strip() for line in hand] == ["NExT-QA-MC", "NExT-QA-OE", "ActivityNet-QA"]
    assert f"put them into {data / 'ActivityNet-QA' / 'all_test'}" in hand[2]
    listing = out[: out.index("will be downloaded")]
    assert "  MVBench: videos of NTU RGB+D, which its licence" in listing, "before anything is downloaded"
    assert "Data in" in listing and all(name in listing for name in sources.SOURCES)
    assert "MMStar          missing  to get: 0.0 MB" in listing
    shutil.copytree(published / "NExT-QA" / "NExTVideo", data / "NExT-QA" / "NExTVideo")
    shutil.make_archive(str(data / "ActivityNet-QA" / "all_test"), "gztar", published / "ActivityNet-QA", "all_test")
    status, out, err = said("data", "--data", data)
    assert (status, err.count("retain: ")) == (0, 0) and f"All data is in {data}: MME, MMStar" in out
    for name in sources.SOURCES:
        assert state(name, data).status == "present"
        opened = open_benchmark(name, data, 2)
        assert len(opened) == len(open_benchmark(name, published, 2)) and opened.message(0)
    assert open_benchmark("MME", data, 2).source == {  # type: ignore[attr-defined]
        "file": "MME.tsv",
        "md5": hashlib.md5(servers.plain["/MME.tsv"]).hexdigest(),
        "official": True,
    }
    servers.asked.clear()
    assert said("data", "--data", data)[0] == 0
    assert servers.asked == [], "what is there is not asked for"


def test_an_experiment_names_its_benchmarks(servers: Hub, said: Said, tmp_path: Path) -> None:
    status, out, err = said("data", "table2", "--data", tmp_path / "data")
    assert (status, err.count("retain:")) == (0, 0)
    assert out.endswith(f"All data is in {tmp_path / 'data'}: MME, MMStar, MMVet, SEEDBench_IMG.\n")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"LMUData", "manifests"}
    status, _, err = said("data", "tabel2")
    assert status == 2 and "'tabel2' is no benchmark whose data can be got here; known are MME" in err


def test_the_manifest_is_written_last(servers: Hub, said: Said, tmp_path: Path) -> None:
    data = tmp_path / "data"
    servers.faults = lambda request: 500 if request.path.endswith("0.pkl") else None
    status, out, err = said("data", "MMBench-Video", "--data", data)
    assert status == 2 and "All data" not in out
    assert "MMBench-Video: the dataset opencompass/MMBench-Video cannot be had: the hub" in err
    assert "fails (500); repeat the command later, what was downloaded is kept" in err
    assert manifest.fault(data, "MMBench-Video") == "its download was not finished"
    assert state("MMBench-Video", data).status == "partial"
    servers.faults = lambda request: None
    servers.asked.clear()
    assert said("data", "MMBench-Video", "--data", data)[0] == 0
    assert servers.gets("0.pkl") == [None] and servers.gets("MMBench-Video.tsv") == [], "the rest was there"
    content = json.loads(manifest.place(data, "MMBench-Video").read_text())
    assert content["origin"]["commit"] == COMMIT and len(content["files"]) == 2


def test_archives_placed_by_hand_are_unpacked_without_asking(servers: Hub, said: Said, tmp_path: Path) -> None:
    layouts.mmbench_video(tmp_path / "data")
    status, out, _ = said("data", "MMBench-Video", "--data", tmp_path / "data")
    assert status == 0 and "All data is in" in out and servers.asked == []
    assert not list((tmp_path / "data" / "manifests").glob("*.json")), "nothing was downloaded"


def test_bars_run_up_to_their_files_sizes(
    servers: Hub, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that are gone on with, whose first part counts as got at once."""
    seen: dict[str, list[tuple[float, float | None]]] = {}

    class Bar(tqdm.tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            seen.setdefault(self.desc, []).append((self.n, self.total))
            return shown

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    data = tmp_path / "data"
    sizes = {}
    for name in ("LMUData/MMVet.tsv", "NExT-QA/test.csv", "NExT-QA/map_vid_vidorID.json"):
        content = servers.plain["/MMVet.tsv" if "MMVet" in name else f"/{name}"]
        part = data / f"{name}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("json"):
            part.write_bytes(content[: len(content) * 9 // 10])
        sizes[Path(name).name] = len(content)
    said("data", "MMVet", "NExT-QA-MC", "--data", data)
    for name, size in sizes.items():
        values = seen.pop(name)
        assert {total for _, total in values} == {size} and values[-1][0] == size
        assert values[0][0] == (size if name.endswith("json") else size * 9 // 10)
    assert not seen


@pytest.mark.parametrize("name", ["MMVet", "MVBench", "NExT-QA-MC"])
def test_what_was_stopped_at_the_very_end_is_only_verified(servers: Hub, said: Said, tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(tmp_path / "published" / "NExT-QA" / "NExTVideo", data / "NExT-QA" / "NExTVideo")
    assert said("data", name, "--data", data)[0] == 0
    content = json.loads(manifest.place(data, name).read_text())
    manifest.begin(data, name, content["origin"])
    assert state(name, data).status == "partial"
    servers.asked.clear()
    assert said("data", name, "--data", data)[0] == 0
    assert not [path for method, path, _ in servers.asked if method == "GET" and "/api/" not in path]
    assert json.loads(manifest.place(data, name).read_text()) == content


def test_what_was_placed_by_hand_stays(servers: Hub, said: Said, tmp_path: Path) -> None:
    data = tmp_path / "data"
    folder = layouts.next_oe(data, [layouts.oe_row(0, "an answer of my own")])
    own = (folder / "test.csv").read_bytes()
    assert said("data", "NExT-QA-OE", "--data", data)[0] == 0
    assert (folder / "test.csv").read_bytes() == own and (folder / "add_reference_answer_test.json").is_file()


def test_two_processes_do_not_get_the_same(servers: Hub, said: Said, tmp_path: Path) -> None:
    (tmp_path / "data" / "manifests").mkdir(parents=True)
    with portalocker.Lock(tmp_path / "data" / "manifests" / "MMVet.lock"):
        status, _, err = said("data", "MMVet", "--data", tmp_path / "data")
    assert status == 2 and "retain: MMVet: another process is getting it" in err


def test_a_file_of_the_hub_that_is_not_what_it_lists(servers: Hub, said: Said, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert said("data", "MVBench", "--data", data)[0] == 0
    (blob,) = {path.resolve() for path in (data / "hub").rglob("snapshots/*/test.json")}
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1])
    assert "test.json has" in state("MVBench", data).sentence
    assert said("data", "MVBench", "--data", data)[0] == 0
    assert state("MVBench", data).status == "present" and blob.read_bytes() == whole


@pytest.mark.parametrize(
    ("fault", "words"),
    [(404, "has no such file (404)"), (403, "refuses it (403)"), (500, "fails (500)"), ("hang", "gave nothing for")],
)
def test_one_that_fails_does_not_keep_the_others(
    servers: Hub, said: Said, tmp_path: Path, fault: Any, words: str
) -> None:
    servers.faults = lambda request: fault if "MMStar" in request.path else None
    status, _, err = said("data", "MMStar", "MMVet", "--data", tmp_path / "data")
    assert status == 2 and f"{servers.url}/MMStar.tsv" in err and words in err
    assert len([line for line in err.splitlines() if line.startswith("retain: ")]) == 1
    assert state("MMVet", tmp_path / "data").status == "present"
    assert state("MMStar", tmp_path / "data").status == "missing"


@pytest.mark.parametrize(
    ("fault", "words"),
    [(403, "is gated: accept its terms at"), (500, "fails (500)"), ("hang", "gave nothing for 0.2 seconds")],
)
def test_a_data_set_that_the_hub_does_not_give(
    servers: Hub, said: Said, tmp_path: Path, fault: Any, words: str
) -> None:
    servers.faults = lambda request: fault if "/api/" in request.path else None
    status, _, err = said("data", "MVBench", "--data", tmp_path / "data")
    assert status == 2 and "MVBench: the dataset OpenGVLab/MVBench" in err and words in err
    del servers.datasets["OpenGVLab/MVBench"]
    servers.faults = lambda request: None
    status, _, err = said("data", "MVBench", "--data", tmp_path / "data")
    assert status == 2 and f"the dataset OpenGVLab/MVBench is not on the hub ({servers.url})" in err


def test_a_disk_without_room(servers: Hub, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.fetch.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    status, _, err = said("data", "MMStar", "--data", tmp_path / "data")
    assert status == 2 and "has room for 0.0 MB, and downloading and unpacking takes" in err
    assert servers.gets("/MMStar.tsv") == []


@pytest.mark.parametrize("command", ["run", "table", "figure"])
def test_a_run_without_data_says_what_to_do(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Without --data it lies in results/data/paper. Nothing is downloaded without being asked for."""
    monkeypatch.chdir(tmp_path)
    status, out, err = said(command, "table3", "--profile", "paper")
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("retain: ")]
    assert len(lines) == len(err.splitlines()) == 6
    place = tmp_path / "results" / "data" / "paper"
    assert f"lmms-lab/Video-MME is not in {place / 'hub'}, `retain data Video-MME` gets it" in lines[0]
    assert f"put them into {place / 'NExT-QA' / 'NExTVideo'}" in lines[3]
    assert not (tmp_path / "results").exists()


def test_a_run_names_the_folder_that_it_was_given(said: Said, tmp_path: Path) -> None:
    status, _, err = said("run", "table2", "--profile", "paper", "--data", tmp_path)
    assert status == 2 and f"MME: {tmp_path / 'LMUData' / 'MME.tsv'} is not there" in err
