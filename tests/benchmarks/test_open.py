"""Opening the six benchmarks from disk, and the messages that come out."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks import open_benchmark
from harness.vlmevalkit import data_root, kit, register_datasets
from tests.benchmarks import layouts


@pytest.mark.parametrize("name", list(layouts.VIDEOS))
def test_message_is_what_the_kits_own_loop_asks(name: str, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    opened = open_benchmark(name, tmp_path, 8)
    assert len(opened) == len(opened.rows) >= 2
    asked: list[tuple[list[dict[str, str]], str]] = []
    base: Any = kit("vlmeval.vlm.base").BaseModel

    class Recorder(base):
        VIDEO_LLM = True

        def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
            asked.append((message, dataset or ""))
            return "A"

    infer = kit("vlmeval.inference_video").infer_data
    infer(Recorder(), "recorder", str(tmp_path), opened.dataset, str(tmp_path / "out.pkl"))
    assert [message for message, _ in asked] == [opened.message(i) for i in range(len(opened))]
    assert {dataset for _, dataset in asked} == {opened.entry.kit_dataset}
    for i in range(len(opened)):
        assert all(Path(path).is_file() for path in opened.media(i))
        assert opened.problem(i) is None


@pytest.mark.parametrize("name", list(layouts.VIDEOS))
def test_frames_come_from_the_kits_frame_machinery(name: str, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    opened = open_benchmark(name, tmp_path, 3)
    images = [part["value"] for part in opened.message(0, video_llm=False) if part["type"] == "image"]
    assert len(images) == 3
    assert all(Path(image).is_file() and image.startswith(str(tmp_path / "LMUData")) for image in images)


@pytest.mark.parametrize("name", list(layouts.VIDEOS))
def test_the_kit_knows_type_and_modality(name: str, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    opened = open_benchmark(name, tmp_path, 8)
    dataset = kit("vlmeval.dataset")
    assert opened.dataset.dataset_name == opened.entry.kit_dataset
    assert dataset.DATASET_MODALITY(opened.entry.kit_dataset) == "VIDEO"
    assert dataset.DATASET_TYPE(opened.entry.kit_dataset, default=None) in {"Video-MCQ", "Video-VQA"}


def test_data_root_points_everywhere_and_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setenv("LMUData", "/elsewhere")
    monkeypatch.delenv("VLMEVALKIT_USE_MODELSCOPE", raising=False)
    before, login = dict(os.environ), huggingface_hub.login
    fixed = {name: getattr(constants, name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE")}
    with pytest.raises(ZeroDivisionError), data_root(tmp_path):
        assert kit("vlmeval.smp").LMUDataRoot() == str(tmp_path / "LMUData")
        assert kit("vlmeval.smp.file").HFCacheRoot() == constants.HF_HUB_CACHE == str(tmp_path / "hub")
        assert huggingface_hub.is_offline_mode()
        huggingface_hub.login()  # would raise: offline
        assert not kit("vlmeval.smp").modelscope_flag_set()
        raise ZeroDivisionError
    assert dict(os.environ) == before
    assert huggingface_hub.login is login
    assert fixed == {name: getattr(constants, name) for name in fixed}


def test_digest_follows_questions_and_videos(tmp_path: Path) -> None:
    first = open_benchmark("NExT-QA-MC", _made(tmp_path / "a"), 8).digest
    assert first == open_benchmark("NExT-QA-MC", _made(tmp_path / "b"), 16).digest
    other = _made(tmp_path / "c")
    video = next((other / "NExT-QA" / "NExTVideo").glob("*.mp4"))
    video.write_bytes(video.read_bytes()[:-1] + b"x")
    assert open_benchmark("NExT-QA-MC", other, 8).digest != first
    changed = [layouts.next_row(i, (i + 1) % 5) for i in range(4)]
    assert open_benchmark("NExT-QA-MC", _made(tmp_path / "d", changed), 8).digest != first


def _made(data: Path, rows: list[dict[str, object]] | None = None) -> Path:
    layouts.next_qa(data, rows)
    return data


def test_frames_of_a_namesake_and_of_an_older_file_are_not_taken(tmp_path: Path) -> None:
    clip = layouts.mvbench_question(0)
    folder = layouts.mvbench(tmp_path, {"first": [clip], "second": [{**clip, "question": "Another?"}]})
    for seed, task in enumerate(("first", "second")):
        (folder / task / "clip0.mp4").write_bytes(layouts.video_bytes(seed))
    opened = open_benchmark("MVBench", tmp_path, 2)

    def pictures(i: int) -> list[bytes]:
        return [Path(p["value"]).read_bytes() for p in opened.message(i, video_llm=False) if p["type"] == "image"]

    def kits(i: int) -> list[bytes]:
        return [Path(p["value"]).read_bytes() for p in opened.dataset.build_prompt(i, False) if p["type"] == "image"]

    assert kits(0) == kits(1)  # two videos of one name: the second gets the first one's frames
    first = pictures(0)
    assert first != pictures(1)
    (folder / "first" / "clip0.mp4").write_bytes(layouts.video_bytes(7))
    assert first != pictures(0)
    stat = (folder / "first" / "clip0.mp4").stat()
    (folder / "first" / "clip0.mp4").write_bytes(layouts.video_bytes(0))
    os.utime(folder / "first" / "clip0.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert first == pictures(0)
    assert kits(0) == kits(1)


def test_frames_lie_where_the_run_says_by_content(tmp_path: Path) -> None:
    clip = layouts.mvbench_question(0)
    folder = layouts.mvbench(tmp_path / "data", {"first": [clip], "second": [{**clip, "video": "other.mp4"}]})
    for name in ("first/clip0.mp4", "second/other.mp4"):
        (folder / name).write_bytes(layouts.video_bytes(3))
    before = {path for path in (tmp_path / "data").rglob("*") if path.suffix != ".lock"}
    opened = open_benchmark("MVBench", tmp_path / "data", 2, pictures=tmp_path / "run")
    images = [Path(p["value"]) for i in range(2) for p in opened.message(i, video_llm=False) if p["type"] == "image"]
    (kept,) = {path.relative_to(tmp_path / "run" / "MVBench_MP4").parts[0] for path in images}
    digest = hashlib.sha256(layouts.video_bytes(3)).hexdigest()
    assert kept == f"{hashlib.sha256(digest.encode()).hexdigest()[:16]}-2frames", "one video: one folder"
    assert [path.name for path in (tmp_path / "run" / "MVBench_MP4").iterdir()] == [kept], "no half folder stays"
    longer = open_benchmark("MVBench", tmp_path / "data", 4, pictures=tmp_path / "run")
    assert sum(part["type"] == "image" for part in longer.message(0, video_llm=False)) == 4
    after = {path for path in (tmp_path / "data").rglob("*") if path.suffix in {".jpg", ".png"}}
    assert after <= before, "nothing of it in the data folder"


def test_the_kits_own_builder_makes_the_registered_datasets(tmp_path: Path) -> None:
    layouts.next_qa(tmp_path)
    layouts.next_oe(tmp_path)
    layouts.activitynet(tmp_path)
    register_datasets()
    with data_root(tmp_path):
        for name in ("NExT-QA", "NExT-OE", "ActivityNet-QA"):
            built = kit("vlmeval.dataset").build_dataset(name, nframe=4)
            assert built.dataset_name == name and built.nframe == 4 and len(built) >= 2


def test_names_cost_no_heavy_import() -> None:
    code = (
        "import sys, harness.benchmarks as b, harness.vlmevalkit; b.benchmark('MVBench');"
        "print([m for m in ('torch', 'pandas', 'numpy', 'vlmeval', 'transformers', 'requests') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
