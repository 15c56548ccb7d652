"""NExT-QA and ActivityNet-QA from their official files, in every layout in which they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.benchmarks import open_benchmark
from harness.vlmevalkit import kit
from tests.benchmarks import layouts


@pytest.mark.parametrize("vidor", [False, True])
def test_next_qa_videos_flat_or_as_vidor_has_them(vidor: bool, tmp_path: Path) -> None:
    layouts.next_qa(tmp_path, vidor=vidor)
    opened = open_benchmark("NExT-QA-MC", tmp_path, 4)
    path = Path(opened.media(0)[0])
    assert path.relative_to(tmp_path / "NExT-QA" / "NExTVideo") == Path("1000/4000.mp4" if vidor else "4000.mp4")
    assert len([part for part in opened.message(0, video_llm=False) if part["type"] == "image"]) == 4


def test_next_qa_prompt(tmp_path: Path) -> None:
    layouts.next_qa(tmp_path)
    opened = open_benchmark("NExT-QA-MC", tmp_path, 8)
    text = (
        "why did block 0 move\nA. red\nB. green\nC. blue\nD. a cat\nE. None\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert opened.message(0) == [{"type": "video", "value": opened.media(0)[0]}, {"type": "text", "value": text}]


def test_next_oe_prompt_and_references(tmp_path: Path) -> None:
    layouts.next_oe(tmp_path, [layouts.oe_row(0), layouts.oe_row(1)], {"4000": {"0": "sit down"}})
    opened = open_benchmark("NExT-QA-OE", tmp_path, 8)
    assert opened.message(1)[1:] == [
        {"type": "text", "value": "why did block 1 move\nAnswer a question using a short phrase or sentence."}
    ]
    assert list(opened.rows["references"]) == [("jump onto the sofa", "sit down"), ("jump onto the sofa",)]
    assert opened.media(0) == [str(tmp_path / "NExT-QA" / "NExTVideo" / "4000.mp4")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_activitynet_containers_pass_the_kits_own_media_check(suffix: str, tmp_path: Path) -> None:
    layouts.activitynet(tmp_path, suffix=suffix)
    opened = open_benchmark("ActivityNet-QA", tmp_path, 3)
    assert opened.media(1) == [str(tmp_path / "ActivityNet-QA" / "all_test" / f"v_abc1{suffix}")]
    assert kit("vlmeval.vlm.base").BaseModel().preproc_content(opened.message(1)) == opened.message(1)
    assert opened.message(1)[1]["value"] == ("What colour is it? Answer the question using a single word or phrase.")
    images = [part["value"] for part in opened.message(1, video_llm=False) if part["type"] == "image"]
    assert len(images) == 3 and all(Path(image).stat().st_size for image in images)


def test_frames_are_those_of_the_kits_base_class(tmp_path: Path) -> None:
    """The same file under the base class's own sampling gives the same pictures."""
    layouts.next_qa(tmp_path)
    opened = open_benchmark("NExT-QA-MC", tmp_path, 5)
    own = [Path(path).read_bytes() for path in opened.dataset.save_video_frames("4000")]
    for path in opened.dataset.frame_paths("4000"):
        Path(path).unlink()
    opened.dataset.data_root = str(tmp_path / "NExT-QA" / "NExTVideo")
    base = kit("vlmeval.dataset.video_base").VideoBaseDataset
    assert [Path(path).read_bytes() for path in base.save_video_frames(opened.dataset, "4000")] == own


def test_texts_that_look_like_numbers_or_nothing_stay(tmp_path: Path) -> None:
    layouts.next_qa(tmp_path, [layouts.next_row(0, 4, question="None", a0="007", a1="N/A", a2="", a3="=1+1")])
    row = open_benchmark("NExT-QA-MC", tmp_path, 8).rows.iloc[0]
    assert list(row[["question", "a0", "a1", "a2", "a3"]]) == ["None", "007", "N/A", "", "=1+1"]
