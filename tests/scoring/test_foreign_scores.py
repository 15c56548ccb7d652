"""Data sets that are none of the paper's, by name and as TSVs of one's own: opened and scored without code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks import benchmark, open_benchmark
from harness.scoring import score
from harness.vlmevalkit import kit
from model_wrappers.errors import UserError
from tests.benchmarks import layouts
from tests.scoring.conftest import LoopbackJudge
from tests.scoring.test_scores import raw


def answers(opened: Any, *replies: str) -> dict[int | str, str | None]:
    return dict(zip(opened.indices, replies, strict=True))


def test_ai2d_is_multiple_choice(tmp_path: Path) -> None:
    layouts.mmstar(tmp_path, name="AI2D_TEST")
    opened = open_benchmark("AI2D_TEST", tmp_path, 8)
    entry = opened.entry
    assert (entry.scheme, entry.kind, entry.modality, entry.scale) == ("mcq", "choice", "image", 100.0)
    replies = answers(opened, "A", "(B)", "blue", "A and D")
    got = score(opened, replies, judge="official")
    assert got.headline == 75.0 and got.stratum_scale == 100.0 and got.unparsed == 1
    kits = raw(opened, {**replies, 3: "A"}, tmp_path, model="exact_matching").iloc[0]
    assert 100 * kits["Overall"] == got.headline


def test_mmbench_counts_a_question_when_all_its_rotations_are_right(tmp_path: Path) -> None:
    layouts.circular(tmp_path, 3)
    opened = open_benchmark("MMBench_DEV_EN", tmp_path, 8)
    assert opened.entry.scheme == "circular" and len(opened) == 12 and len(set(opened.clusters)) == 3
    replies = answers(opened, *"BADC", *"BADA", *"BADC")
    got = score(opened, replies)
    kits = raw(opened, {**replies}, tmp_path, model="exact_matching").iloc[0]
    assert got.headline == pytest.approx(200 / 3) == pytest.approx(100 * kits["Overall"])
    assert got.headline == pytest.approx(100 * sum(got.contributions.values()) / 12)
    assert sum(got.per_sample.values()) == 11 and got.by_group == {"coarse perception": 100.0, "math": 0.0}
    # Two rotations of one question and one of another: the mean is still over questions.
    part = score(opened, {0: "B", 1_000_000: "A", 1: "A"})
    assert part.headline == 50.0 == pytest.approx(100 * sum(part.contributions.values()) / 3)


def test_another_run_that_scores_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit puts such replies into a file in /tmp named after the second, and reads them back."""
    layouts.circular(tmp_path, 3)
    opened = open_benchmark("MMBench_DEV_EN", tmp_path, 8)
    replies = answers(opened, *"BADC", *"BADA", *"BADC")
    words = kit("vlmeval.dataset.utils.multiple_choice")
    second, dump = f"retain-test-{os.getpid()}", words.dump
    others: list[Path] = []

    def dump_before_another(table: Any, path: str) -> None:
        dump(table, path)
        if "hit" not in table and "prediction" in table:
            others.append(Path(f"/tmp/{second}").with_suffix(Path(path).suffix))
            dump(table.iloc[:1], str(others[-1]))

    monkeypatch.setattr(words, "timestr", lambda *_: second)
    monkeypatch.setattr(words, "dump", dump_before_another)
    try:
        kits = raw(opened, {**replies}, tmp_path, model="exact_matching").iloc[0]
        assert kits["Overall"] == 1.0, "the kit's own, of the other run's replies"
        assert score(opened, replies).headline == pytest.approx(200 / 3)
    finally:
        for place in others:
            place.unlink(missing_ok=True)


def test_several_splits_have_one_headline(tmp_path: Path) -> None:
    rows = [layouts.choice_row(i, "B", split=["dev", "validation"][i % 2]) for i in range(5)]
    layouts.tsv(tmp_path, "Splits", rows)
    opened = open_benchmark("Splits", tmp_path, 8)
    got = score(opened, answers(opened, "B", "B", "A", "A", "A"))
    assert got.headline == 50.0 == pytest.approx(100 * sum(got.contributions.values()) / 5)
    assert got.note == "split validation"


def test_pope_is_an_f1_and_says_so(tmp_path: Path) -> None:
    layouts.pope(tmp_path)
    opened = open_benchmark("POPE", tmp_path, 8)
    replies = answers(opened, "Yes", "No", "no, none", "No")
    got = score(opened, replies)
    kits = raw(opened, {**replies}, tmp_path, model="exact_matching")
    assert got.headline == kits["Overall"].iloc[0] == pytest.approx(200 / 3)  # precision 1, recall 1/2
    assert got.stratum_scale is None and got.contributions == got.per_sample == {0: 1.0, 1: 1.0, 2: 0.0, 3: 1.0}
    assert "F1" in got.note and "not the mean of right answers, which is 75.0" in got.note
    assert got.metrics == {"accuracy": 75.0}


def test_hallusion_bench_is_an_accuracy(tmp_path: Path) -> None:
    layouts.hallusion(tmp_path)
    opened = open_benchmark("HallusionBench", tmp_path, 8)
    got = score(opened, answers(opened, "Yes", "No", "No", "No"))
    assert got.headline == 75.0 and got.stratum_scale == 100.0 and got.note == ""
    assert got.by_group["split=Overall|fAcc"] == 50.0


@pytest.mark.parametrize(
    ("name", "references", "replies", "each"),
    [
        ("TextVQA_VAL", [str(["stop"] * 10), str(["go"] * 3 + ["gone"] * 7)], ["Stop.", "go"], [1.0, 0.9]),
        ("ChartQA_TEST", ["100", "7", "007"], ["103", "8", "7"], [1.0, 0.0, 1.0]),
        ("DocVQA_VAL", [str(["None"]), str(["blue"])], ["None", "bluf"], [1.0, 0.75]),
        ("OCRVQA_TESTCORE", [str(["N/A"]), str(["007"])], ["n/a", "7"], [1.0, 0.0]),
    ],
)
def test_the_kits_string_metrics(
    name: str, references: list[str], replies: list[str], each: list[float], tmp_path: Path
) -> None:
    layouts.vqa(tmp_path, name, references)
    opened = open_benchmark(name, tmp_path, 8)
    assert (opened.entry.scheme, opened.entry.kind) == ("vqa", "open")
    got = score(opened, answers(opened, *replies))
    assert list(got.per_sample.values()) == pytest.approx(each)
    assert got.headline == pytest.approx(100 * sum(each) / len(each)) and got.stratum_scale == 100.0
    assert "single word or phrase" in opened.message(0)[-1]["value"]


def test_a_split_without_answers_is_told(tmp_path: Path) -> None:
    layouts.mmstar(tmp_path, [{**layouts.choice_row(0), "answer": ""}], "MMBench_TEST_EN")
    opened = open_benchmark("MMBench_TEST_EN", tmp_path, 8)
    with pytest.raises(UserError, match="question 0 has no answer"):
        score(opened, {0: "A"})


def test_a_choice_tsv_of_ones_own(tmp_path: Path) -> None:
    layouts.mmstar(tmp_path, [layouts.choice_row(i, "AB"[i % 2], C="", D="") for i in range(4)], "MyChoice")
    opened = open_benchmark("MyChoice", tmp_path, 8)
    assert opened.entry.scheme == "mcq" and "C." not in opened.message(0)[-1]["value"]
    got = score(opened, answers(opened, "A", "B", "C", "green"))
    assert got.headline == 75.0 and got.by_group == {"coarse perception": 50.0, "math": 100.0}
    assert benchmark("MyChoice", tmp_path) == opened.entry


def test_an_open_tsv_of_ones_own(tmp_path: Path, loopback: LoopbackJudge) -> None:
    layouts.vqa(tmp_path, "MyOpen", ["None", "007", "a dog"], category="signs")
    opened = open_benchmark("MyOpen", tmp_path, 8)
    assert opened.entry.scheme == "exact"
    got = score(opened, answers(opened, "none", "7", "The dog."))
    assert got.headline == pytest.approx(200 / 3) and got.by_group == pytest.approx({"signs": got.headline})
    assert got.note == "exact match"
    with pytest.raises(UserError, match="no judge in Retain"):
        score(opened, {0: "none"}, judge=loopback.config(tmp_path / "judge"))


def test_pictures_as_files_of_ones_own(tmp_path: Path) -> None:
    import base64

    folder = tmp_path / "LMUData" / "images" / "Files"
    folder.mkdir(parents=True)
    (folder / "one.png").write_bytes(base64.b64decode(layouts.picture(1)))
    rows = [
        {"index": i, "question": "What?", "answer": "x", "image_path": p} for i, p in enumerate(["one.png", "no.png"])
    ]
    layouts.tsv(tmp_path, "Files", rows)
    opened = open_benchmark("Files", tmp_path, 8)
    assert opened.media(0) == [str(folder / "one.png")] and opened.problem(0) is None
    assert "no.png of question 1 does not exist" in str(opened.problem(1))
    before = opened.digest
    (folder / "one.png").write_bytes(base64.b64decode(layouts.picture(2)))
    assert open_benchmark("Files", tmp_path, 8).digest != before
    assert len(set(opened.clusters)) == 2


def test_a_class_with_an_evaluation_of_its_own(tmp_path: Path) -> None:
    layouts.vqa(tmp_path, "CountBenchQA", ["3", "4"])
    opened = open_benchmark("CountBenchQA", tmp_path, 8)
    assert (opened.entry.scheme, opened.entry.kind) == ("kit", "other")
    got = score(opened, answers(opened, "3", "=1+4"))
    assert got.headline is not None and got.stratum_scale is None
    assert "not a mean over the samples" in got.note and got.per_sample == {0: 1.0, 1: 0.0}


def test_a_set_that_wants_a_judge_is_refused_before_it_is_answered(tmp_path: Path) -> None:
    layouts.vqa(tmp_path, "MathVista_MINI", ["3", "4"])
    with pytest.raises(UserError, match="MathVista_MINI is scored by a judge in VLMEvalKit"):
        open_benchmark("MathVista_MINI", tmp_path, 8)


def test_a_variant_of_a_video_benchmark(tmp_path: Path) -> None:
    layouts.video_mme(tmp_path)
    opened = open_benchmark("Video-MME_8frame", tmp_path, 8)
    assert opened.entry.scored_as == "Video-MME" and opened.modality == "video"
    assert score(opened, answers(opened, "A", "Cat", "C", "Best answer: D")).headline == 75.0
    with pytest.raises(UserError, match="Video-MME_8frame stands for nframe 8 in VLMEvalKit, but frames is 4"):
        open_benchmark("Video-MME_8frame", tmp_path, 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MMBnch", "known are MME, MMStar"),
        ("WorldSense_8frame", "WorldSense_8frame: "),
        ("POPE", "POPE.tsv does not exist; get it from https://"),
        ("MVBench_8frame", "use MVBench"),
        ("MMLU", "without images or videos|there is no benchmark"),
    ],
)
def test_what_is_not_there_is_told_in_a_sentence(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        open_benchmark(name, tmp_path, 8)
    assert "\n" not in str(error.value)


def test_a_tsv_of_ones_own_without_pictures(tmp_path: Path) -> None:
    layouts.tsv(tmp_path, "Text", [{"index": 0, "question": "What?", "A": "x", "B": "y", "answer": "A"}])
    with pytest.raises(UserError, match=r"Text\.tsv has no column 'image'"):
        open_benchmark("Text", tmp_path, 8)


def test_the_papers_names_load_nothing_heavy() -> None:
    code = (
        "import sys; from harness.benchmarks import benchmark, benchmark_names\n"
        "for name in benchmark_names(): benchmark(name)\n"
        "print(sorted({'torch', 'pandas', 'numpy', 'vlmeval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
