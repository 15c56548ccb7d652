"""Image benchmarks: scores equal VLMEvalKit's own on clean answers, and stay right where the kit's do not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks import open_benchmark
from harness.benchmarks.opened import OpenBenchmark
from harness.scoring import Score, ScoringError, score
from harness.vlmevalkit import judge_installed, kit, patched, quiet
from tests.benchmarks import layouts
from tests.scoring.conftest import LoopbackJudge
from tests.scoring.test_scores import opened, raw

Replies = dict[int | str, str | None]


def mean_of_means(got: Score) -> float:
    """The headline, worked out from contributions, strata and scale as their definition says."""
    assert got.stratum_scale is not None and set(got.contributions) == set(got.strata) == set(got.per_sample)
    total = 0.0
    for stratum in set(got.strata.values()):
        values = [got.contributions[index] for index, name in got.strata.items() if name == stratum]
        total += got.stratum_scale * sum(values) / len(values)
    return total


def alternating(benchmark: OpenBenchmark) -> Replies:
    """Right, right, wrong, and so on."""
    wrong = {"Yes": "No", "No": "Yes"}
    found: Replies = {}
    for i, (index, answer) in enumerate(zip(benchmark.indices, benchmark.rows["answer"], strict=True)):
        found[index] = answer if i % 3 else wrong.get(answer, "a dog, I think")
    return found


@pytest.mark.parametrize("name", list(layouts.WRITERS))
def test_the_headline_is_the_mean_of_the_contributions(name: str, tmp_path: Path) -> None:
    benchmark = opened(name, tmp_path)
    answers: Replies = {index: "B" if index == benchmark.indices[0] else "yes" for index in benchmark.indices}
    if name in layouts.IMAGES:
        answers = alternating(benchmark)
    got = score(benchmark, answers)
    assert got.headline == pytest.approx(mean_of_means(got), abs=1e-9)
    assert got.stratum_scale == (100.0 if name == "MME" else benchmark.entry.scale)
    if name != "MME":
        assert got.contributions == got.per_sample and set(got.strata.values()) == {""}
    part = score(benchmark, {**answers, benchmark.indices[0]: None})
    assert part.headline is None and set(part.contributions) == set(part.per_sample) == set(benchmark.indices[1:])


def test_mme_is_perception_plus_reasoning_as_the_kit_rates(tmp_path: Path) -> None:
    rows = [row for n in range(20) for row in layouts.mme_pair(n, layouts.MME_CATEGORIES[n % 4 * 3])]
    benchmark = opened("MME", tmp_path, rows)
    chosen = random.Random(3)
    replies: Any = {index: chosen.choice(["Yes", "no.", "No, it is not", "yes"]) for index in benchmark.indices}
    got = score(benchmark, replies)
    kits = raw(benchmark, replies, tmp_path, model="exact_matching").iloc[0]
    assert got.headline == pytest.approx(kits["perception"] + kits["reasoning"])
    assert 0 < got.headline < 800 and got.by_group == pytest.approx({name: kits[name] for name in got.by_group})
    assert len(got.by_group) == 6 and got.unparsed == 0
    assert set(got.contributions.values()) == {0.0, 1.0, 2.0}


def test_mme_with_one_question_of_a_pair(tmp_path: Path) -> None:
    rows = [*layouts.mme_pair(0), *layouts.mme_pair(1), layouts.mme_pair(2)[0]]
    benchmark = opened("MME", tmp_path, rows)
    replies: Any = {0: "yes", 1: "no", 2: "yes", 3: "yes", 4: "yes"}
    with pytest.raises(IndexError):
        raw(benchmark, replies, tmp_path, model="exact_matching")
    got = score(benchmark, replies)
    # right: 0, 1, 2, 4; the pictures of 0 and 1, and of 4 alone, are wholly right
    assert got.contributions == {0: 2.0, 1: 2.0, 2: 1.0, 3: 0.0, 4: 2.0}
    assert got.headline == pytest.approx(100 * 7 / 5) and got.by_group["color"] == pytest.approx(140)
    assert score(benchmark, {4: "no"}).headline == 0.0  # no whole pair at all


def test_mme_reads_yes_and_no_strictly(tmp_path: Path) -> None:
    benchmark = opened("MME", tmp_path, layouts.mme_pair(0))
    misread = {0: 'It may say "yes".', 1: "There is no way to tell"}
    assert raw(benchmark, misread, tmp_path, model="exact_matching").iloc[0]["perception"] == 200.0
    got = score(benchmark, {**misread})
    assert got.headline == 0.0 and got.unparsed == 2
    clear: Replies = {0: "Yes, there is no doubt.", 1: "No."}
    (tmp_path / "again").mkdir()
    assert raw(benchmark, clear, tmp_path / "again", model="exact_matching").iloc[0]["perception"] < 200
    assert score(benchmark, clear).headline == 200.0


@pytest.mark.parametrize("name", ["MMStar", "SEEDBench_IMG"])
def test_letters_score_as_in_the_kit(name: str, tmp_path: Path) -> None:
    benchmark = opened(name, tmp_path, [layouts.choice_row(i, "ABCD"[i % 4]) for i in range(8)])
    replies: Any = dict(enumerate(["A", "B.", "(C)", "A", "The answer is A", "green", "d", "D. a cat"]))
    got = score(benchmark, replies)
    kits = raw(benchmark, replies, tmp_path, model="exact_matching").iloc[0]
    assert got.headline == pytest.approx(100 * kits["Overall"]) == 75.0
    assert got.by_group == pytest.approx({name: 100 * kits[name] for name in ("coarse perception", "math")})
    assert got.per_sample == {0: 1, 1: 1, 2: 1, 3: 0, 4: 1, 5: 1, 6: 0, 7: 1} and got.unparsed == 0


@pytest.mark.parametrize(
    ("reply", "truth"), [("It could be B or so", "B"), ("A or B, not C", "B"), ("no cat here: a cat", "D")]
)
def test_letters_that_the_kit_finds_in_passing(reply: str, truth: str, tmp_path: Path) -> None:
    benchmark = opened("MMStar", tmp_path, [layouts.choice_row(0, truth)])
    got = score(benchmark, {0: reply})
    assert got.headline == 0.0 and got.unparsed == 1


def test_options_that_look_like_numbers_or_nothing(tmp_path: Path) -> None:
    rows = [layouts.choice_row(i, answer, A="None", B="007", C="N/A", D="7") for i, answer in enumerate("ABCD")]
    benchmark = opened("MMStar", tmp_path, [{**row, "category": "None"} for row in rows])
    assert score(benchmark, dict(enumerate(["None", "007", "n/a", "7"]))).headline == 100.0
    got = score(benchmark, dict(enumerate("ABCC")))
    assert got.headline == 75.0 and got.by_group == {"None": 75.0}


def test_an_index_of_texts_and_gaps(tmp_path: Path) -> None:
    rows = [layouts.choice_row(0, "A", index=index) for index in ("007", "q-1", "12")]
    benchmark = opened("MMStar", tmp_path, rows)
    got = score(benchmark, {"007": "A", "12": "B"})
    assert got.headline == 50.0 and got.per_sample == {"007": 1.0, "12": 0.0}


@pytest.mark.parametrize(
    ("name", "right", "wrong"), [("MMStar", "ABCD", "BCDA"), ("MME", ["Yes", "No"], ["No", "Yes"])]
)
def test_score_files_outlive_their_predictions(name: str, right: Any, wrong: Any, tmp_path: Path) -> None:
    benchmark = opened(name, tmp_path, layouts.mme_pair(0)) if name == "MME" else opened(name, tmp_path)
    first = raw(benchmark, dict(enumerate(right)), tmp_path, model="exact_matching")
    again = raw(benchmark, dict(enumerate(wrong)), tmp_path, model="exact_matching")  # the same name: an older file
    assert first.equals(again)
    assert score(benchmark, dict(enumerate(right))).headline in {100.0, 200.0}
    assert score(benchmark, dict(enumerate(wrong))).headline == 0.0


class _Mumbling:
    fail_msg = "Failed to obtain answer via API."

    def working(self) -> bool:
        return True

    def generate(self, prompt: str, **_: Any) -> str:
        return "hard to say"


def test_a_random_option_after_a_judge_that_is_unsure(loopback: LoopbackJudge, tmp_path: Path) -> None:
    rows = [layouts.choice_row(i, "ABCD"[i % 4]) for i in range(40)]
    benchmark = opened("MMStar", tmp_path / "data", rows)
    replies: Any = dict.fromkeys(range(40), "it cannot be seen")
    random.seed(0)
    with judge_installed("vlmeval.dataset.image_mcq", _Mumbling()):
        assert raw(benchmark, replies, tmp_path, model="mumbling").iloc[0]["Overall"] > 0
    assert score(benchmark, replies).headline == 0.0
    loopback.reply = lambda payload: "hard to say"
    judged = score(benchmark, replies, judge=loopback.config(tmp_path / "judge"))
    assert judged.headline is None and judged.failed == 40


def test_a_judge_reads_unclear_yes_and_no(loopback: LoopbackJudge, tmp_path: Path) -> None:
    benchmark = opened("MME", tmp_path / "data", layouts.mme_pair(0))
    loopback.reply = lambda payload: "Yes" if "red" in payload["messages"][0]["content"] else "Unknown"
    got = score(benchmark, {0: "It is indeed.", 1: "Who knows"}, judge=loopback.config(tmp_path / "judge"))
    assert got.per_sample == {0: 1.0, 1: 0.0} and got.unparsed == 1 and got.headline == 50.0
    assert got.note == "yes and no in unclear replies read by test-judge"
    assert loopback.requests[0]["messages"][0]["content"].startswith(
        "You are an AI assistant who will help me to match"
    )
    loopback.reply = lambda payload: "perhaps"
    silent = score(benchmark, {0: "It is indeed!", 1: "no"}, judge=loopback.config(tmp_path / "judge"))
    assert silent.headline is None and silent.failed == 1


@pytest.mark.parametrize("name", ["MME", "MMStar", "MMVet"])
def test_a_number_that_contradicts_the_samples_is_not_given(name: str, tmp_path: Path) -> None:
    benchmark = opened(name, tmp_path)
    dataset = benchmark.dataset
    evaluate = type(dataset).evaluate
    column = {"MME": "perception", "MMStar": "Overall", "MMVet": "acc"}[name]

    def miscounting(*arguments: Any, **judge: Any) -> Any:
        found = evaluate(arguments[-1], **judge) if name == "MMVet" else evaluate(*arguments, **judge)
        return found.assign(**{column: 0.125})

    with patched(type(dataset), "evaluate", miscounting), pytest.raises(ScoringError, match="counts differently"):
        score(benchmark, alternating(benchmark))


def test_spreadsheets_mangle_categories(tmp_path: Path) -> None:
    """The kit loads its own files again in between; a category that is not text there breaks or vanishes."""
    rows = [layouts.choice_row(i, "B", category=name) for i, name in enumerate(["None", "2024"])]
    benchmark = opened("MMStar", tmp_path, rows)
    with pytest.raises((TypeError, KeyError)):
        raw(benchmark, {0: "B", 1: "B"}, tmp_path, model="exact_matching")["2024"]
    assert score(benchmark, {0: "B", 1: "C"}).by_group == {"None": 100.0, "2024": 0.0}


def test_opened_again_gives_the_same_score(tmp_path: Path) -> None:
    benchmark = opened("MME", tmp_path)
    replies = alternating(benchmark)
    assert score(open_benchmark("MME", tmp_path, 8), replies) == score(benchmark, replies)
    with quiet():
        assert kit("vlmeval.dataset").DATASET_TYPE("MME") == "Y/N"


def test_the_kit_writes_its_results_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = opened("MMStar", tmp_path, [layouts.choice_row(i, "B") for i in range(30)])
    written: list[str] = []
    tools = kit("vlmeval.utils.mp_util")
    dump = tools.dump
    monkeypatch.setattr(tools, "dump", lambda found, path: (written.append(path), dump(found, path)))
    raw(benchmark, dict.fromkeys(range(30), "B"), tmp_path, model="exact_matching")
    assert len(written) > 30  # all results so far, after each sample
    written.clear()
    assert score(benchmark, dict.fromkeys(range(30), "B")).headline == 100.0 and written == []
