"""What is there of a benchmark's data, and what is said of what is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks import benchmark_names
from harness.data import manifest
from harness.data.sources import SOURCES, source, tsv_address
from harness.data.state import State, missing, state
from model_wrappers.errors import UserError
from tests.benchmarks import layouts


def unpacked(name: str, data: Path) -> None:
    """What opening would do."""
    from harness.data.state import archives
    from harness.data.unpack import unpack

    for paths, target in archives(source(name), data):
        unpack(paths, target)


def test_every_benchmark_of_the_paper_has_one_source() -> None:
    assert list(SOURCES) == benchmark_names()
    for known in SOURCES.values():
        assert [bool(known.tsv), known.hub is not None, bool(known.files)].count(True) == 1
        assert known.questions > 0 and known.page.startswith("http")
    with pytest.raises(UserError, match="'POPE' comes from is not known here; known are MME"):
        source("POPE")


@pytest.mark.parametrize("name", [known.benchmark for known in SOURCES.values() if known.tsv])
def test_the_addresses_of_tsvs_are_the_kits(name: str) -> None:
    url, md5 = tsv_address(name)
    assert url.startswith("https://") and url.endswith(".tsv") and len(md5) == 32


@pytest.mark.parametrize("name", benchmark_names())
def test_nothing_is_missing_where_all_is_there(name: str, tmp_path: Path) -> None:
    assert state(name, tmp_path).status == "missing"
    layouts.WRITERS[name](tmp_path)
    if name == "NExT-QA-OE":
        assert state(name, tmp_path).extras == ("NExT-OE/add_reference_answer_test.json",)
    unpacked(name, tmp_path)
    found = state(name, tmp_path)
    assert (found.status, found.lacks, found.by_hand, found.sentence) == ("present", (), (), "")
    assert found.folder.is_dir() and found.folder.is_relative_to(tmp_path)
    assert missing([name, "POPE"], tmp_path) == [] and found.data == tmp_path


@pytest.mark.parametrize("name", benchmark_names())
def test_what_is_missing_is_one_sentence(name: str, tmp_path: Path) -> None:
    (said,) = missing([name], tmp_path)
    assert said.startswith(f"{name}: ") and "\n" not in said
    assert f"`retain data {name} --data {tmp_path}` gets it" in said and str(tmp_path) in said
    wanted = source(name).by_hand
    if wanted:
        assert wanted.what in said and wanted.page in said
        assert f"put them into {tmp_path / wanted.place}" in said if wanted.place else "by hand afterwards" in said


def cut_tsv(data: Path) -> None:
    path = layouts.mme(data)
    path.rename(path.with_name("MME.tsv.part"))


def unfinished(name: str) -> Callable[[Path], Any]:
    def make(data: Path) -> None:
        layouts.WRITERS[name](data)
        unpacked(name, data)
        manifest.begin(data, name, {})

    return make


def shortened(data: Path) -> None:
    path = layouts.mme(data)
    manifest.finish(data, "MME", {}, [path])
    path.write_bytes(path.read_bytes()[:-10])


def half_unpacked(data: Path) -> None:
    folder = layouts.video_mme(data)
    (folder / "video").mkdir()
    with zipfile.ZipFile(folder / "videos_chunked_01.zip") as archive:
        (folder / "video" / "vid0.mp4").write_bytes(archive.read("data/vid0.mp4"))
        (folder / "video" / "vid1.mp4").write_bytes(archive.read("data/vid1.mp4")[:-5])


def lost_file(data: Path) -> None:
    path = layouts.next_qa(data) / "map_vid_vidorID.json"
    manifest.finish(data, "NExT-QA-MC", {}, [path])
    path.unlink()


def listed_by_the_hub(data: Path) -> None:
    """What huggingface_hub keeps of a download that was cut short."""
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    folder = layouts.video_mme(data)
    unpacked("Video-MME", data)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    entries = {
        name: TreeCacheEntry(size=1, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None)
        for name in [*names, "videos_chunked_02.zip"]
    }
    write_tree_cache(str(folder.parent.parent), layouts.REVISION, entries)


def half_a_blob(data: Path) -> None:
    """What another program, such as `hf download`, leaves when it is stopped."""
    blobs = layouts.mvbench(data).parent.parent / "blobs"
    (blobs / "0123.incomplete").write_bytes(b"a part")


def cut_zip(data: Path) -> None:
    path = layouts.video_mme(data) / "videos_chunked_01.zip"
    path.write_bytes(path.read_bytes()[:-40])


PARTIAL: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "tsv half there": ("MME", cut_tsv, "MME.tsv is not all there"),
    "tsv cut": ("MME", shortened, "MME.tsv has .* bytes where .* were downloaded"),
    "download of a tsv": ("MMStar", unfinished("MMStar"), "its download was not finished"),
    "download from the hub": ("MVBench", unfinished("MVBench"), "its download was not finished"),
    "the hub's own list": ("Video-MME", listed_by_the_hub, "its download was not finished"),
    "file from the hub": ("MVBench", half_a_blob, "its download was not finished"),
    "zip cut": ("Video-MME", cut_zip, "videos_chunked_01.zip is no whole zip file"),
    "zip not unpacked": ("Video-MME", layouts.video_mme, "video is not unpacked"),
    "zip half unpacked": ("Video-MME", half_unpacked, "video is not unpacked"),
    "pickle not unpacked": ("MMBench-Video", layouts.mmbench_video, "video is not unpacked"),
    "file gone": ("NExT-QA-MC", lost_file, "NExT-QA/map_vid_vidorID.json, which was downloaded, is gone"),
}


@pytest.mark.parametrize("what", PARTIAL)
def test_what_is_only_partly_there_is_not_taken_for_all(what: str, tmp_path: Path) -> None:
    name, make, words = PARTIAL[what]
    make(tmp_path)
    found = state(name, tmp_path)
    assert found.status == "partial" and len(found.lacks) + len(found.packed) == 1
    assert (missing([name], tmp_path) == []) == bool(found.packed), "opening it unpacks what is there"
    import re

    assert (
        re.search(words, found.sentence) and f"`retain data {name} --data {tmp_path}` goes on with it" in found.sentence
    )


def by_hand(found: State) -> str:
    (said,) = found.by_hand
    assert found.status == "partial" and not found.lacks and said in found.sentence
    return said


def test_videos_that_the_hub_lacks_are_placed_where_the_questions_say(tmp_path: Path) -> None:
    folder = layouts.mvbench(tmp_path)
    shutil.move(folder / "object_count", tmp_path / "aside")
    said = by_hand(state("MVBench", tmp_path))
    assert said.startswith("2 videos are not there (clip0.mp4 is the first") and "NTU RGB+D" in said
    assert said.endswith(f"put them into {folder / 'object_count'}")
    shutil.move(tmp_path / "aside", folder / "object_count")
    assert state("MVBench", tmp_path).status == "present"


@pytest.mark.parametrize("vidor", [False, True])
def test_videos_of_next_qa(vidor: bool, tmp_path: Path) -> None:
    folder = layouts.next_qa(tmp_path, vidor=vidor)
    assert state("NExT-QA-MC", tmp_path).status == "present"
    next((folder / "NExTVideo").rglob("4001.mp4")).unlink()
    said = by_hand(state("NExT-QA-MC", tmp_path))
    assert said.startswith("1 of its videos (4001.mp4 is the first) must be placed by hand")
    assert f"put them into {folder / 'NExTVideo'}, or their archive (zip, tar) into {folder}" in said


def test_a_download_that_has_its_manifest_is_whole_whatever_another_program_left(tmp_path: Path) -> None:
    half_a_blob(tmp_path)
    manifest.finish(tmp_path, "MVBench", {}, [])
    assert state("MVBench", tmp_path).status == "present"


def test_videos_of_activitynet(tmp_path: Path) -> None:
    folder = layouts.activitynet(tmp_path, suffix=".webm")
    assert state("ActivityNet-QA", tmp_path).status == "present"
    shutil.rmtree(folder / "all_test")
    said = by_hand(state("ActivityNet-QA", tmp_path))
    assert (
        said.startswith("2 of its videos (v_abc0.mp4 is the first)") and f"put them into {folder / 'all_test'}" in said
    )


def test_an_archive_placed_by_hand_is_unpacked_and_files_are_left_alone(tmp_path: Path) -> None:
    folder = layouts.next_qa(tmp_path)
    with zipfile.ZipFile(folder / "NExTVideo.zip", "w") as archive:
        archive.writestr("other/1.mp4", b"video")
    assert state("NExT-QA-MC", tmp_path).status == "present", "the videos are there as files"
    shutil.rmtree(folder / "NExTVideo")
    assert state("NExT-QA-MC", tmp_path).packed == (folder / "NExTVideo",)
    whole = (folder / "NExTVideo.zip").read_bytes()
    (folder / "NExTVideo.zip").write_bytes(whole[:-10])
    assert "NExTVideo.zip is no whole zip file: put it there again" in by_hand(state("NExT-QA-MC", tmp_path))
    (folder / "NExTVideo.zip").write_bytes(whole)
    unpacked("NExT-QA-MC", tmp_path)
    assert "2 of its videos (4000.mp4 is the first)" in by_hand(state("NExT-QA-MC", tmp_path))


def test_a_question_file_that_cannot_be_read(tmp_path: Path) -> None:
    (layouts.activitynet(tmp_path) / "test_q.json").write_text("{")
    with pytest.raises(UserError, match=r"test_q\.json cannot be read as JSON"):
        state("ActivityNet-QA", tmp_path)
    (layouts.mvbench(tmp_path) / "test.json").write_text(json.dumps({"meta": {"task": []}}))
    with pytest.raises(UserError, match=r"test\.json is not MVBench's: it lacks 'root'"):
        state("MVBench", tmp_path)


def test_the_state_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.data.state import missing; "
        f"from harness.data.sources import SOURCES; assert len(missing(SOURCES, Path({str(tmp_path)!r}))) == 10;"
        "print([m for m in ('torch', 'pandas', 'vlmeval', 'transformers', 'requests') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
