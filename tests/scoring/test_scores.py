"""Scores of clean answers equal VLMEvalKit's own; incomplete answers give no number."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.benchmarks import benchmark_names, open_benchmark
from harness.benchmarks.opened import OpenBenchmark
from harness.scoring import score
from harness.vlmevalkit import quiet
from model_wrappers.errors import UserError
from tests.benchmarks import layouts


def opened(name: str, data: Path, *arguments: Any) -> OpenBenchmark:
    layouts.WRITERS[name](data, *arguments)
    return open_benchmark(name, data, 8)


def right_answers(benchmark: OpenBenchmark) -> dict[int | str, str | None]:
    """A right answer to every question, as a model would write it."""
    answers: dict[int | str, str | None] = {}
    for index, row in zip(benchmark.indices, benchmark.rows.to_dict("records"), strict=True):
        answer = row["answer"]
        if benchmark.name == "NExT-QA-MC":
            answer = "ABCDE"[int(answer)]
        elif benchmark.name == "MVBench":
            answer = "ABC"[ast.literal_eval(row["candidates"]).index(answer)] + ") " + answer
        answers[index] = answer
    return answers


def raw(benchmark: OpenBenchmark, answers: dict[int | str, str], folder: Path, **judge: Any) -> Any:
    """What the kit's own runner would do: its spreadsheet, its evaluate."""
    table = benchmark.rows.copy()
    table["prediction"] = [answers[index] for index in benchmark.indices]
    path = folder / "raw.xlsx"
    table.to_excel(path, index=False, engine="xlsxwriter")
    with quiet():
        return benchmark.dataset.evaluate(str(path), **judge)


@pytest.mark.parametrize("name", benchmark_names())
def test_right_answers_score_the_whole_scale(name: str, tmp_path: Path) -> None:
    benchmark = opened(name, tmp_path)
    got = score(benchmark, right_answers(benchmark))
    assert got.headline == benchmark.entry.scale
    assert set(got.per_sample.values()) == {1.0} and set(got.per_sample) == set(benchmark.indices)
    assert got.by_group and (name == "MME" or set(got.by_group.values()) == {benchmark.entry.scale})
    assert (got.n, got.failed, got.total) == (len(benchmark), 0, len(benchmark))
    assert ("exact match" in got.note) == (benchmark.entry.kind == "open")


@pytest.mark.parametrize("name", benchmark_names())
def test_a_failed_sample_leaves_no_headline(name: str, tmp_path: Path) -> None:
    benchmark = opened(name, tmp_path)
    answers = right_answers(benchmark)
    failed = benchmark.indices[1]
    got = score(benchmark, {**answers, failed: None})
    assert got.headline is None and got.by_group == {} and got.metrics == {}
    assert (got.n, got.failed, got.total) == (len(benchmark) - 1, 1, len(benchmark))
    assert failed not in got.per_sample
    nothing = score(benchmark, dict.fromkeys(benchmark.indices, None))
    assert nothing.headline is None and nothing.n == 0 and nothing.failed == len(benchmark)


@pytest.mark.parametrize("name", benchmark_names())
def test_a_part_of_the_samples_can_be_scored(name: str, tmp_path: Path) -> None:
    benchmark = opened(name, tmp_path)
    index = benchmark.indices[-1]
    got = score(benchmark, {index: right_answers(benchmark)[index]})
    assert got.headline == (200.0 if name == "MME" else benchmark.entry.scale)  # of MME, one category
    assert (got.n, got.failed, got.total) == (1, 0, len(benchmark))


def test_clean_letters_score_as_in_the_kit(tmp_path: Path) -> None:
    mme = opened("Video-MME", tmp_path, [layouts.video_mme_question(i, "ABCD"[i % 4]) for i in range(7)])
    replies = dict(enumerate(["A", "B.", "(C)", "D", "The best answer is C", "Answer: B", "A"]))
    got = score(mme, {**replies})
    kits = raw(mme, {**replies}, tmp_path, model="exact_matching")
    assert got.headline is not None and f"{got.headline / 100:.3f}" == kits["overall"]["overall"] == "0.714"
    assert list(got.per_sample.values()) == [1, 1, 1, 1, 0, 1, 0]
    assert got.by_group["short"] == pytest.approx(100 * float(kits["short"]["overall"]), abs=0.05)


def test_clean_options_score_as_in_the_kit(tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path)
    replies = {0: "(A) red", 1: "A) red", 2: "C", 3: "B."}
    got = score(bench, {**replies})
    kits = raw(bench, {**replies}, tmp_path, model="exact_matching")
    assert kits["overall"] == [3, 4, "75.00%"] and got.headline == 75.0
    assert got.by_group == {"action_sequence": 50.0, "object_count": 100.0}
    assert got.per_sample == {0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0}


def test_next_qa_accuracy_by_type_folds_previous_into_next(tmp_path: Path) -> None:
    rows = [layouts.next_row(i, 1, type=kind) for i, kind in enumerate(["CW", "CH", "TN", "TP", "TC", "DC"])]
    benchmark = opened("NExT-QA-MC", tmp_path, rows)
    replies: dict[int | str, str | None] = dict(enumerate(["B", "A", "green", "C", "B. green", "I cannot tell"]))
    got = score(benchmark, replies)
    assert got.headline == 50.0 and got.unparsed == 1
    groups = {"CW": 100, "CH": 0, "C": 50, "TN": 50, "TC": 100, "T": 200 / 3, "DC": 0, "D": 0}
    assert got.by_group == pytest.approx(groups)
    table = tmp_path / "kit.tsv"
    answers = pd.DataFrame({"index": benchmark.indices, "prediction": list(replies.values())})
    answers.to_csv(table, sep="\t", index=False)
    assert benchmark.dataset.evaluate(str(table)) == {"overall": 50.0, **got.by_group}


def test_activitynet_exact_match_by_type(tmp_path: Path) -> None:
    pairs = [("is it red", "yes", 3), ("what moves", "the cat", 0), ("how many", "2", 7), ("is it big", "no", 3)]
    benchmark = opened("ActivityNet-QA", tmp_path, pairs)
    replies: dict[int | str, str | None] = {0: "Yes.", 1: "A cat", 2: "20", 3: "yes"}
    got = score(benchmark, replies, judge="official")
    assert got.headline == 50.0
    assert got.by_group == pytest.approx({"yes/no": 50, "free": 100 / 3, "motion": 100, "number": 0})
    table = tmp_path / "kit.xlsx"
    pd.DataFrame({"index": [0, 1, 2, 3], "prediction": list(replies.values())}).to_excel(table, index=False)
    assert benchmark.dataset.evaluate(str(table)) == {"overall": 50.0, **got.by_group}


def test_an_answer_to_other_data_is_refused(tmp_path: Path) -> None:
    benchmark = opened("MVBench", tmp_path)
    with pytest.raises(UserError, match="no sample 17"):
        score(benchmark, {17: "A"})


def test_mmbench_video_without_a_judge_is_refused(tmp_path: Path) -> None:
    benchmark = opened("MMBench-Video", tmp_path)
    with pytest.raises(UserError, match="rated by a judge"):
        score(benchmark, right_answers(benchmark), judge="official")


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    benchmark = opened("Video-MME", tmp_path)
    with pytest.raises(UserError, match="Video-MME cannot be scored: .*nowhere"):
        score(benchmark, right_answers(benchmark), workdir=tmp_path / "nowhere")


def test_the_kits_files_are_gone_afterwards(tmp_path: Path) -> None:
    benchmark = opened("Video-MME", tmp_path / "data")
    work = tmp_path / "work"
    work.mkdir()
    score(benchmark, right_answers(benchmark), workdir=work)
    assert list(work.iterdir()) == []
