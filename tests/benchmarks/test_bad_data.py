"""Data with a fault: one clear sentence before anything loads, or one failed sample where only one is bad."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.benchmarks import benchmark, open_benchmark
from harness.data import manifest
from model_wrappers.errors import SampleError, UserError
from tests.benchmarks import layouts


def refused(name: str, data: Path, *words: str) -> None:
    """Opening fails with a one-line UserError in which all of `words` stand."""
    with pytest.raises(UserError) as error:
        open_benchmark(name, data, 8)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def video_of(name: str, data: Path) -> Path:
    """The video of the first question, in an edition that was opened before and whose archives were then deleted."""
    video = Path(open_benchmark(name, data, 8).media(0)[0])
    for archive in [*data.rglob("*.zip"), *data.rglob("*.pkl")]:
        if "hub" in archive.parts:
            archive.unlink()
    return video


@pytest.mark.parametrize("content", [b"", b"this is no video, but it has some bytes"])
@pytest.mark.parametrize("name", list(layouts.VIDEOS))
def test_a_bad_video_fails_only_its_own_samples(name: str, content: bytes, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    bad = video_of(name, tmp_path)
    bad.write_bytes(content)
    opened = open_benchmark(name, tmp_path, 8)
    hit = [i for i in range(len(opened)) if opened.media(i) == [str(bad)]]
    assert 0 < len(hit) < len(opened)
    for i in range(len(opened)):
        problem = opened.problem(i)
        assert (problem is not None) == (i in hit)
        if i not in hit:
            assert opened.message(i)
        elif content:
            assert problem == f"video {bad} cannot be decoded; it is damaged or not a video"
        else:
            assert problem == f"video {bad} is empty (0 bytes)"
            with pytest.raises(SampleError, match="is empty"):
                opened.message(i)


@pytest.mark.parametrize("name", list(layouts.VIDEOS))
def test_a_missing_video_is_named(name: str, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    gone = video_of(name, tmp_path)
    gone.unlink()
    refused(name, tmp_path, gone.stem)


def test_a_video_that_vanishes_later_fails_its_sample(tmp_path: Path) -> None:
    layouts.mvbench(tmp_path)
    opened = open_benchmark("MVBench", tmp_path, 8)
    Path(opened.media(0)[0]).unlink()
    with pytest.raises(SampleError, match="does not exist any more"):
        opened.message(0)
    assert "does not exist any more" in str(opened.problem(0))


@pytest.mark.parametrize("name", list(layouts.VIDEOS))
def test_no_data_says_where_it_was_looked_for(name: str, tmp_path: Path) -> None:
    refused(name, tmp_path, name if name in {"Video-MME", "MVBench", "MMBench-Video"} else "looked for", str(tmp_path))
    refused(name, tmp_path / "nowhere", "does not exist")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="'MVBnch'; known are MME, MMStar, MMVet, SEEDBench_IMG, Video-MME"):
        benchmark("MVBnch")


@pytest.mark.parametrize("frames", [0, -1, 2.5, True])
def test_frames_must_be_a_positive_number(frames: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed are whole numbers from 1"):
        open_benchmark("MVBench", tmp_path, frames)


@pytest.mark.parametrize("column", ["question", "answer", "dimensions", "video"])
def test_a_tsv_without_a_column(column: str, tmp_path: Path) -> None:
    folder = layouts.mmbench_video(tmp_path)
    path = folder / "MMBench-Video.tsv"
    pd.read_csv(path, sep="\t").drop(columns=column).to_csv(path, sep="\t", index=False)
    refused("MMBench-Video", tmp_path, str(path), f"no column '{column}'")


def test_a_tsv_with_an_unknown_dimension(tmp_path: Path) -> None:
    layouts.mmbench_video(tmp_path, [layouts.mmbench_row(0), layouts.mmbench_row(1, dimensions="['Colour']")])
    refused("MMBench-Video", tmp_path, "row 2", "'Colour'", "Object Recognition")


@pytest.mark.parametrize("value", ["5", "", "f()"])
def test_a_tsv_with_dimensions_that_are_no_list(value: str, tmp_path: Path) -> None:
    layouts.mmbench_video(tmp_path, [layouts.mmbench_row(0), layouts.mmbench_row(1, dimensions=value)])
    refused("MMBench-Video", tmp_path, "row 2", "it must be a list")


def test_a_tsv_that_is_cut_inside_a_quote(tmp_path: Path) -> None:
    path = layouts.mmbench_video(tmp_path) / "MMBench-Video.tsv"
    path.write_text(path.read_text() + '9\t"a video whose name does not en')
    refused("MMBench-Video", tmp_path, f"{path} cannot be read as TSV (", "EOF inside string")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content | {"meta": []}, ["meta is no object"]),
        (lambda content: content | {"root": "video/"}, ["root is no object"]),
        (lambda content: content | {"meta": dict.fromkeys(content["meta"], 5)}, ["is no list of questions"]),
        (lambda content: content | {"meta": dict.fromkeys(content["meta"], ["a"])}, ["question 1, has no key 'video'"]),
    ],
)
def test_mvbench_questions_of_another_shape(change: Any, words: list[str], tmp_path: Path) -> None:
    path = layouts.mvbench(tmp_path) / "test.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refused("MVBench", tmp_path, str(path), *words)


def test_an_index_given_twice(tmp_path: Path) -> None:
    layouts.mmbench_video(tmp_path, [layouts.mmbench_row(0), layouts.mmbench_row(1, index=0)])
    refused("MMBench-Video", tmp_path, "index 0 is given twice")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "E"}, ["row 1", "answer 'E'"]),
        ({"duration": "brief"}, ["duration is 'brief'", "short, medium, long"]),
        ({"task_type": "Guessing"}, ["task_type is 'Guessing'"]),
    ],
)
def test_a_parquet_with_a_wrong_value(change: dict[str, str], words: list[str], tmp_path: Path) -> None:
    layouts.video_mme(tmp_path, [{**layouts.video_mme_question(0), **change}])
    refused("Video-MME", tmp_path, *words)


def test_a_parquet_without_a_column_and_one_that_is_none(tmp_path: Path) -> None:
    folder = layouts.video_mme(tmp_path)
    path = folder / "videomme" / "test-00000-of-00001.parquet"
    pd.read_parquet(path).drop(columns="options").to_parquet(path)
    refused("Video-MME", tmp_path, str(path), "no column 'options'")
    path.write_bytes(b"PAR1 but not really")
    refused("Video-MME", tmp_path, str(path), "cannot be read as parquet")
    path.write_bytes(b"")
    refused("Video-MME", tmp_path, str(path), "is empty")


@pytest.mark.parametrize("name", list(layouts.WRITERS))
def test_a_download_that_was_not_finished_is_not_opened(name: str, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    manifest.begin(tmp_path, name, {})
    refused(
        name, tmp_path, name, "its download was not finished", f"`retain data {name} --data {tmp_path}` goes on with it"
    )


@pytest.mark.parametrize("name", ["Video-MME", "MMBench-Video"])
def test_a_half_unpacked_folder_is_completed(name: str, tmp_path: Path) -> None:
    """The kit takes any folder for a complete one."""
    folder = layouts.WRITERS[name](tmp_path)
    (folder / "video").mkdir()
    stem = "vid0" if name == "Video-MME" else "film0"
    (folder / "video" / f"{stem}.mp4").write_bytes(layouts.video_bytes(0)[:100])
    opened = open_benchmark(name, tmp_path, 8)
    assert (folder / "video" / f"{stem}.mp4").read_bytes() == layouts.video_bytes(0)
    assert [opened.problem(i) for i in range(len(opened))] == [None] * len(opened)


def test_a_damaged_archive_leaves_no_half_unpacked_folder(tmp_path: Path) -> None:
    folder = layouts.video_mme(tmp_path)
    archive = folder / "videos_chunked_01.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    refused("Video-MME", tmp_path, "damaged")
    assert not (folder / "video").exists()
    archive.write_bytes(whole)
    assert len(open_benchmark("Video-MME", tmp_path, 8)) == 4


@pytest.mark.parametrize("key", ["root", "meta"])
def test_mvbench_json_without_a_key(key: str, tmp_path: Path) -> None:
    path = layouts.mvbench(tmp_path) / "test.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    refused("MVBench", tmp_path, str(path), f"no key '{key}'")


def test_mvbench_json_with_bad_questions(tmp_path: Path) -> None:
    path = layouts.mvbench(tmp_path) / "test.json"
    content = json.loads(path.read_text())
    content["meta"]["object_count"][1]["answer"] = "purple"
    path.write_text(json.dumps(content))
    refused("MVBench", tmp_path, "'object_count', question 2", "'purple'")
    del content["meta"]["object_count"][1]["answer"]
    path.write_text(json.dumps(content))
    refused("MVBench", tmp_path, "no key 'answer'")
    path.write_text("{")
    refused("MVBench", tmp_path, "cannot be read as JSON")


@pytest.mark.parametrize("answer", ["5", "-1", "B", ""])
def test_a_csv_with_a_wrong_answer_index(answer: str, tmp_path: Path) -> None:
    layouts.next_qa(tmp_path, [layouts.next_row(0), layouts.next_row(1, answer)])
    refused("NExT-QA-MC", tmp_path, "test.csv, row 2", f"answer '{answer}'", "0 to 4")


def test_a_csv_without_a_column_or_with_an_unknown_type(tmp_path: Path) -> None:
    rows = [{key: value for key, value in layouts.next_row(0).items() if key != "a3"}]
    path = layouts.next_qa(tmp_path, rows) / "test.csv"
    refused("NExT-QA-MC", tmp_path, str(path), "no column 'a3'")
    layouts.next_qa(tmp_path, [layouts.next_row(0, type="XX")])
    refused("NExT-QA-MC", tmp_path, "type 'XX'", "CW")
    path.write_bytes(b"")
    refused("NExT-QA-MC", tmp_path, str(path), "cannot be read as csv")
    path.write_text("video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n")
    refused("NExT-QA-MC", tmp_path, str(path), "has no rows")


def test_added_references_without_a_question(tmp_path: Path) -> None:
    layouts.next_oe(tmp_path, [layouts.oe_row(0), layouts.oe_row(1)], {"4000": {"0": "sit"}, "4001": {"9": "run"}})
    refused("NExT-QA-OE", tmp_path, "no key '1'", "4001")


@pytest.mark.parametrize(("file", "key"), [("test_q.json", "question_id"), ("test_q.json", "video_name")])
def test_activitynet_json_without_a_key(file: str, key: str, tmp_path: Path) -> None:
    path = layouts.activitynet(tmp_path) / file
    entries = json.loads(path.read_text())
    del entries[1][key]
    path.write_text(json.dumps(entries))
    refused("ActivityNet-QA", tmp_path, str(path), "entry 2", f"no key '{key}'")


def test_activitynet_answers_that_do_not_fit(tmp_path: Path) -> None:
    path = layouts.activitynet(tmp_path) / "test_a.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([{**entries[0], "type": 9}, entries[1]]))
    refused("ActivityNet-QA", tmp_path, "type 9", "0 to 8")
    path.write_text(json.dumps(entries[:1]))
    refused("ActivityNet-QA", tmp_path, "no answer to question v_abc1_1")
    path.write_text("[]")
    refused("ActivityNet-QA", tmp_path, str(path), "list of entries")


def test_a_data_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    layouts.mvbench(tmp_path)
    (tmp_path / "LMUData").write_text("a file where the folder should be")
    refused("MVBench", tmp_path, str(tmp_path), "cannot be written to")


def test_an_edition_whose_lock_and_cache_files_exist_is_read_again(tmp_path: Path) -> None:
    layouts.next_qa(tmp_path)
    first = open_benchmark("NExT-QA-MC", tmp_path, 4)
    first.message(0, video_llm=False)
    layouts.next_qa(tmp_path, [layouts.next_row(0, 3)])
    assert list(open_benchmark("NExT-QA-MC", tmp_path, 4).rows["answer"]) == ["3"]
    assert not [name for name in os.listdir(tmp_path / "LMUData") if name.startswith("tmp")]
