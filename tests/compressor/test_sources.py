"""What is recognised in a folder, what is drawn from it, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.compressor.sources import Sample, Source, find, llava_video
from harness.compressor.sources.draw import REFUSED, REFUSED_PICTURE, Taken, choose, draw
from harness.compressor.sources.splits import TestSplits
from model_wrappers.errors import UserError
from tests.benchmarks import layouts
from tests.compressor import published


def drawn(folder: Path, *benchmarks: Path, seed: int = 0, **options: Any) -> tuple[list[Sample], list[Taken]]:
    """All that is drawn from a folder."""
    return draw(choose(find(folder), None), TestSplits([folder, *benchmarks]), seed=seed, **options)


def read(source: Source) -> list[Sample]:
    """Every sample of a source, in file order."""
    return [sample for part in source.parts.values() for sample in part(Counter())]


def test_llava_video_178k(tmp_path: Path) -> None:
    (source,) = find(published.llava_video(tmp_path))
    assert (source.name, source.media, source.amount, len(source.parts)) == ("LLaVA-Video-178K", "video", 7000, 8)
    samples = read(source)
    assert len(samples) == 4 * 2 * 2 * 2  # durations, kinds, entries, turns; captions are none
    first = samples[0]
    assert (first.question, first.prompt, first.answer) == ("What is it?", "What is it?", "It is a red bar.")
    choices = [sample for sample in samples if sample.options]
    assert len(choices) == len(samples) / 2
    assert {sample.answer for sample in choices} == {"B", "C"}
    assert choices[0].options == ("Black", "Silver", "Red", "Blue")
    assert choices[0].question == "What is seen?" and choices[0].prompt.endswith(published.TAIL)
    assert all(sample.file.exists() for sample in samples)
    assert len({sample.id for sample in samples}) == len(samples)
    assert len({sample.group for sample in samples}) == 4 * 2  # videos


def test_a_balanced_sample_tells_what_it_lacks(tmp_path: Path) -> None:
    published.llava_video(tmp_path, durations=("0_30_s", "2_3_m"))
    samples, (taken,) = drawn(tmp_path, limit=24)
    kinds = Counter(("2_3_m" in sample.id, bool(sample.options)) for sample in samples)
    assert set(kinds.values()) == {3}  # 24 / 8 parts
    assert taken.short == {
        f"{duration}, {kind}": 3 for duration in ("30-60 s", "1-2 min") for kind in ("open-ended", "multiple choice")
    }
    assert "short by 3 in 30-60 s, open-ended" in "".join(taken.sentences())
    assert (taken.asked, taken.wanted, taken.available) == (12, 24, 16)


def test_the_sample_is_seeded_and_a_smaller_one_is_a_part_of_it(tmp_path: Path) -> None:
    published.clips(tmp_path / "own.jsonl", 12)
    everything = [sample.id for sample in drawn(tmp_path)[0]]
    assert everything == [sample.id for sample in drawn(tmp_path)[0]] != sorted(everything)
    assert [sample.id for sample in drawn(tmp_path, limit=5)[0]] == everything[:5]
    assert [sample.id for sample in drawn(tmp_path, seed=1)[0]] != everything


def test_next_qa(tmp_path: Path) -> None:
    (source,) = find(published.next_qa(tmp_path))
    choice, opened = (list(part(Counter())) for part in source.parts.values())
    choice, opened = sorted((choice, opened), key=lambda each: not each[0].options)
    assert source.amount == 6000
    assert choice[0].answer == "D" and choice[0].options[3] == "sleeps"
    assert choice[0].prompt.startswith("what is the dog doing\nA. runs\nB. sits")
    assert opened[0].answer == "sleeps" and opened[0].prompt.endswith("using a short phrase or sentence.")
    assert choice[0].file.exists() and opened[0].file == choice[0].file  # the tasks share their videos
    assert choice[0].group == opened[0].group == "3238737531"


def test_the_official_files_stand_before_the_copies(tmp_path: Path) -> None:
    (copy,) = find(published.hub_nextqa(tmp_path))
    (sample,) = read(copy)
    assert (copy.name, copy.amount, sample.answer, sample.group) == ("NExT-QA", 6000, "A", "3264772244")
    published.next_qa(tmp_path / "official")
    (source,) = find(tmp_path)
    assert "train.csv" in source.where


def test_activitynet_qa(tmp_path: Path) -> None:
    (source,) = find(published.activitynet(tmp_path))
    sample = read(source)[0]
    assert (source.name, source.amount) == ("ActivityNet-QA", 4000)
    assert sample.prompt == "Is the athlete wearing trousers? Answer the question using a single word or phrase."
    assert (sample.answer, sample.group) == ("yes", "v_1QIUV7WYKXg") and sample.file.exists()


def test_infinity_mm(tmp_path: Path) -> None:
    gpt, synthetic = find(published.infinity_mm(tmp_path))
    assert [(s.name, s.amount, s.media) for s in (gpt, synthetic)] == [
        ("Infinity-MM GPT-4", 9000, "image"),
        ("Infinity-MM synthetic", 4000, "image"),
    ]
    left_out: Counter[str] = Counter()
    (part,) = synthetic.parts.values()
    assert len(list(part(left_out))) == 2 and left_out == {"without a picture": 1}
    samples = read(gpt)
    assert [(sample.question, sample.answer) for sample in samples] == [("What colour is it?", "red")] * 3
    groups = []
    for sample in samples:
        with sample.file.file() as (path, digest):
            assert path.suffix == ".jpg" and path.read_bytes()[:2] == b"\xff\xd8"
            groups.append(digest)
    assert groups[0] == groups[1] != groups[2]  # questions about one picture are of one group
    assert not path.exists()


def test_infinity_mm_by_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody without the hub's terms knows the real names: archives are never passed over in silence."""
    published.infinity_mm(tmp_path)
    stage = tmp_path / "Infinity-MM" / "stage4"
    (stage / "gpt4_data").rename(stage / "17M")
    (only,) = find(tmp_path)
    assert only.name == "Infinity-MM synthetic"
    (said,) = caplog.messages
    assert f"{stage}/17M/laion is taken for neither part" in said and "one with gpt" in said
    (stage / "synthetic_data").rename(stage / "08M")
    with pytest.raises(UserError, match=f"^--data {tmp_path}: of Infinity-MM.*{stage}/08M/all, {stage}/17M/laion is"):
        find(tmp_path)
    (stage / "17M" / "laion").rename(stage / "17M" / "gpt")
    assert [source.name for source in find(tmp_path)] == ["Infinity-MM GPT-4"]


def test_images_and_videos_are_not_mixed(tmp_path: Path) -> None:
    published.infinity_mm(tmp_path)
    published.activitynet(tmp_path)
    sources = find(tmp_path)
    with pytest.raises(UserError, match="--mix image or --mix video"):
        choose(sources, None)
    assert {source.name for source in choose(sources, "video")} == {"ActivityNet-QA"}
    with pytest.raises(UserError, match="holds no images"):
        choose(choose(sources, "video"), "image")


def test_jsonl(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": "p/1.png", "question": "What?", "answer": 7},
        {"image": "p/2.png", "question": "Which?", "options": ["A. a dog", "a cat"], "answer": "a cat", "group": "g"},
        {"image": "p/2.png", "question": "Which?", "options": ["a dog", "a cat"], "answer": 0, "id": "last"},
    ]
    samples = read(find(published.jsonl(tmp_path / "own.jsonl", rows))[0])
    assert [sample.id for sample in samples] == ["own/1", "own/2", "own/last"]
    assert [sample.answer for sample in samples] == ["7", "B", "A"]
    assert [sample.group for sample in samples] == ["p/1.png", "g", "p/2.png"]
    assert samples[1].options == ("a dog", "a cat")
    assert samples[1].prompt.splitlines()[:3] == ["Which?", "A. a dog", "B. a cat"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not an object"),
        ('{"question": "?", "answer": "a"}', "give either 'image' or 'video'"),
        ('{"image": "a.png", "video": "a.mp4", "question": "?", "answer": "a"}', "give either 'image' or 'video'"),
        ('{"image": "a.png", "answer": "a"}', "'question' is None; it must be text"),
        ('{"image": 3, "question": "?", "answer": "a"}', "'image' is 3; it must be text"),
        ('{"image": "a.png", "question": "?", "answer": null}', "'answer' is None; it must be text"),
        ('{"image": "a.png", "question": "?", "answer": "a", "colour": 1}', "unknown key 'colour'"),
        ('{"image": "a.png", "question": "?", "answer": "a", "options": ["b"]}', "a list of 2 to 26 texts"),
        ('{"image": "a.png", "question": "?", "answer": "c", "options": ["a", "b"]}', "none of its 2 options"),
        ('{"image": "a.png", "question": "?", "answer": "a", "id": 1}', "id '1' is that of line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"image": "a.png", "question": "?", "answer": "a"}\n' + line + "\n")
    with pytest.raises(UserError, match="line 2") as error:
        find(path)
    assert said in str(error.value)


def test_media_that_are_not_there_are_counted(tmp_path: Path) -> None:
    path = published.clips(tmp_path / "own.jsonl", 3)
    (tmp_path / "clips/1.mp4").unlink()
    (tmp_path / "clips/2.mp4").write_bytes(b"")
    samples, (taken,) = drawn(path)
    assert [sample.id for sample in samples] == ["own/q0"]
    assert taken.left_out == {"their video is not there": 2}
    (tmp_path / "clips/0.mp4").unlink()
    with pytest.raises(UserError, match="no question that can be asked.*their video is not there"):
        drawn(path)


def test_test_videos_are_refused_by_id(tmp_path: Path) -> None:
    train = published.next_qa(tmp_path / "train", videos=("1111111111", "2222222222"))
    published.activitynet(train, videos=("AAAAAAAAAAA", "BBBBBBBBBBB"))
    published.next_qa(train, videos=("2222222222", "3333333333"), split="test")  # beside the training files
    bench = published.activitynet(tmp_path / "bench", videos=("BBBBBBBBBBB",), split="test")
    samples, taken = drawn(train, bench)
    assert {sample.group for sample in samples} == {"1111111111", "v_AAAAAAAAAAA"}
    assert {each.source.name: each.left_out for each in taken} == {
        "NExT-QA": {REFUSED: 2},
        "ActivityNet-QA": {REFUSED: 1},
    }
    assert f"2 left out: {REFUSED}" in " ".join(taken[0].sentences())


def test_videos_of_video_mme_and_mvbench_are_refused(tmp_path: Path) -> None:
    layouts.video_mme(tmp_path / "bench")  # vid0, vid1
    layouts.mvbench(tmp_path / "bench")  # clip0.mp4, clip1.mp4
    layouts.mmbench_video(tmp_path / "bench")  # film0, film1
    names = ["ytb_vid0", "clip1", "film0", "mine"]
    rows = [{"video": f"clips/{name}.mp4", "question": "?", "answer": "a"} for name in names]
    path = published.jsonl(tmp_path / "own.jsonl", rows)
    samples, (taken,) = draw(find(path), TestSplits([tmp_path / "bench"]), seed=0)
    assert [Path(str(sample.group)).stem for sample in samples] == ["mine"]
    assert taken.left_out == {REFUSED: 3}


def test_pictures_of_a_benchmark_are_refused(tmp_path: Path) -> None:
    """By their pixels, under another name and in another lossless format; others are drawn in their place."""
    layouts.mmstar(tmp_path / "bench")
    folder = tmp_path / "own"
    folder.mkdir()
    for number, suffix in ((0, "png"), (1, "bmp")):
        with Image.open(io.BytesIO(base64.b64decode(layouts.picture(number)))) as shown:
            shown.save(folder / f"{number}.{suffix}")
    names = ["0.png", "1.bmp", "mine.png", "other.png"]
    rows = [{"image": name, "question": "?", "answer": "a"} for name in names]
    path = published.jsonl(folder / "own.jsonl", rows)
    tests = TestSplits([tmp_path / "bench"])
    for limit, refused in ((None, 2), (2, 1)):  # of two drawn one is refused, and neither of the next two
        samples, (taken,) = draw(find(path), tests, seed=0, limit=limit)
        assert sorted(str(sample.group) for sample in samples) == ["mine.png", "other.png"]
        assert taken.left_out == {REFUSED_PICTURE: refused}
    assert tests.counts() == {"MMStar": 4}
    assert len(draw(find(path), TestSplits([folder]), seed=0)[0]) == 4


def test_a_damaged_table_of_pictures_is_named(tmp_path: Path) -> None:
    layouts.tsv(tmp_path / "bench", "MMStar", [{"index": 0, "image": "[broken"}])
    path = published.jsonl(tmp_path / "own.jsonl", [{"image": "a.png", "question": "?", "answer": "a"}])
    with pytest.raises(UserError, match="MMStar.tsv, a benchmark's test split, cannot be read"):
        drawn(path, tmp_path / "bench")


def test_a_test_split_beside_a_file_counts(tmp_path: Path) -> None:
    path = published.clips(tmp_path / "own.jsonl", 2)
    (tmp_path / "test.csv").write_text("video,question\n0,what\n")
    assert [sample.id for sample in drawn(path)[0]] == ["own/q1"]


def test_the_same_video_in_another_folder_is_refused(tmp_path: Path) -> None:
    """NExT-QA's videos lie in LLaVA-Video-178K too."""
    published.llava_video(tmp_path / "llava", entries=1, durations=("0_30_s",))
    published.next_qa(tmp_path / "bench", videos=("0_30_s-0",), split="test")
    with pytest.raises(UserError, match="4 left out: refused"):
        drawn(tmp_path / "llava", tmp_path / "bench")


@pytest.mark.parametrize("name", ["NExT-QA/test.csv", "ActivityNet-QA/test_q.json", "test.jsonl"])
def test_a_whole_test_split_is_refused(tmp_path: Path, name: str) -> None:
    published.next_qa(tmp_path, split="test")
    published.activitynet(tmp_path, split="test")
    published.clips(tmp_path / "test.jsonl", 1)
    with pytest.raises(UserError, match=r"test split: a compressor is not trained on what it is measured with"):
        find(tmp_path / name)
    with pytest.raises(UserError, match=r"holds a test split \(.+\) and no training data"):
        find(tmp_path)


def test_a_damaged_test_split_is_named(tmp_path: Path) -> None:
    published.clips(tmp_path / "own.jsonl", 1)
    (tmp_path / "test_q.json").write_text('[{"question": "?"}]')
    with pytest.raises(UserError, match="test_q.json, a benchmark's test split, cannot be read"):
        drawn(tmp_path)


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("0_30_s_youtube_v0_1/0_30_s_youtube_oe_v0_1_qa_processed.json", "[{}]", "entry 1, has no key 'video'"),
        ("0_30_s_youtube_v0_1/0_30_s_youtube_oe_v0_1_qa_processed.json", "[", "cannot be read as JSON"),
        (
            "0_30_s_youtube_v0_1/0_30_s_youtube_oe_v0_1_qa_processed.json",
            '[{"video": "a.mp4", "conversations": ["Hello"]}]',
            "entry 1: conversations must be a list of turns",
        ),
        (
            "NExT-QA/train.csv",
            "video,question,answer,qid,type,a0,a1,a2,a3,a4\n1,?,7,0,DO,a,b,c,d,e\n",
            "names no option",
        ),
        ("train_q.json", '[{"video_name": "a", "question": "?", "question_id": "v_a_1"}]', "no train_a.json beside it"),
        ("stage4/gpt/a.tar", "no tar", "cannot be read as a tar archive"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, path: str, content: str, said: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(content)
    with pytest.raises(UserError) as error:
        drawn(tmp_path)
    assert said in str(error.value) and path.rsplit("/", 1)[-1] in str(error.value)


def test_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(UserError, match="nothing in it is known; known are LLaVA-Video-178K"):
        find(tmp_path)
    with pytest.raises(UserError, match="there is no such file or folder"):
        find(tmp_path / "gone")
    with pytest.raises(UserError, match="give a folder, or a .jsonl file"):
        find(tmp_path / "notes.json")


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    published.activitynet(tmp_path)
    path = tmp_path / "ActivityNet-QA/train_q.json"
    path.write_text(json.dumps(json.loads(path.read_text()) * 2))
    with pytest.raises(UserError, match="two samples have the id ActivityNet-QA/v_"):
        drawn(tmp_path)


@pytest.mark.parametrize(
    ("video", "group"),
    [
        ("academic_source/youcook2/101/zukEQgbWdsY/split_2.mp4", "zukEQgbWdsY"),
        ("academic_source/NextQA/1202/3264772244.mp4", "3264772244"),
        ("academic_source/Charades/TDIW8.mp4", "academic_source/Charades/TDIW8"),
    ],
)
def test_a_group_is_a_source_video(video: str, group: str) -> None:
    assert llava_video.group_of(video) == group
