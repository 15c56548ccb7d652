"""What VLMEvalKit gets wrong: each test shows the kit's own wrong number, and the right one behind the guard."""

from __future__ import annotations

import logging
import random
import ssl
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.scoring import ScoringError, score
from harness.scoring.judge import Judge, JudgeConfig, Question
from harness.vlmevalkit import judge_installed, kit, quiet
from tests.benchmarks import layouts
from tests.scoring.test_scores import opened, raw

WRONG_MVBENCH = ["Failed to obtain answer via API.", "(", "None", "N/A", ""]


@pytest.mark.parametrize("reply", WRONG_MVBENCH)
def test_mvbench_counts_what_is_no_answer_as_right(reply: str, tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path)
    replies = {0: "(B)", 1: reply, 2: "(B)", 3: "(A)"}  # one wrong letter each, and what is no answer
    assert raw(bench, replies, tmp_path, model="exact_matching")["overall"][0] == 1
    got = score(bench, {**replies})
    assert got.headline == 0.0 and got.unparsed == 1


def test_mvbench_counts_a_blank_as_right(tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path)
    check = kit("vlmeval.dataset.utils.mvbench").check_ans_with_model
    assert check(" ", "(A) red", None, {}, "MVBench_MP4") is True
    assert score(bench, {0: " ", 1: "\n"}).headline == 0.0


def test_mvbench_breaks_when_no_sample_has_an_answer(tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path)
    replies = dict.fromkeys(range(4), "")
    with pytest.raises(KeyError):
        raw(bench, replies, tmp_path, model="exact_matching")
    assert score(bench, {**replies}).headline == 0.0


def test_mvbench_cannot_read_numbers(tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path)
    replies = dict.fromkeys(range(4), "7")
    with pytest.raises(TypeError):
        raw(bench, replies, tmp_path, model="exact_matching")
    assert score(bench, {**replies}).headline == 0.0


def test_mvbench_miscounts_an_index_with_gaps(tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path)
    bench.rows["index"] = [10, 20, 30, 40]
    replies = {10: "(A)", 20: "(A)", 30: "(A)", 40: "(A)"}  # one right
    counted = raw(bench, replies, tmp_path, model="exact_matching")["overall"]
    assert counted[:2] == [5, 8]  # of 4: phantom rows are appended, and a row without a score counts as right
    got = score(bench, {**replies})
    assert got.headline == 25.0 and got.per_sample == {10: 1.0, 20: 0.0, 30: 0.0, 40: 0.0}


@pytest.mark.parametrize(("reply", "truth", "kits"), [("Best answer: C", "C", "0.000"), ("Cat", "C", "1.000")])
def test_video_mme_misreads_letters(reply: str, truth: str, kits: str, tmp_path: Path) -> None:
    mme = opened("Video-MME", tmp_path, [layouts.video_mme_question(0, truth)])
    assert raw(mme, {0: reply}, tmp_path, model="exact_matching")["overall"]["overall"] == kits
    assert score(mme, {0: reply}).headline == 100.0 * (reply != "Cat")


@pytest.mark.parametrize("answer", ["None", "N/A", "=1+1", "007"])
def test_spreadsheets_mangle_answers(answer: str, tmp_path: Path) -> None:
    rows = [layouts.mmbench_row(i, answer) for i in range(3)]
    bench = opened("MMBench-Video", tmp_path / "data", rows)
    assert [row["answer"] for row in bench.rows.to_dict("records")] == [answer] * 3
    kits_own = pd.read_csv(bench.dataset.data_file, sep="\t")["answer"]
    table = bench.rows.assign(prediction=answer)
    table.to_excel(tmp_path / "raw.xlsx", index=False, engine="xlsxwriter")
    back = pd.read_excel(tmp_path / "raw.xlsx")["prediction"]
    assert list(map(str, back)) != [answer] * 3 or list(map(str, kits_own)) != [answer] * 3
    assert score(bench, dict.fromkeys(range(3), answer)).headline == 3.0


@pytest.mark.parametrize("answer", ["None", "007", "7"])
def test_mvbench_loses_answers_that_look_like_numbers_or_nothing(answer: str, tmp_path: Path) -> None:
    items = [{**layouts.mvbench_question(i), "candidates": ["red", answer], "answer": answer} for i in range(3)]
    bench = opened("MVBench", tmp_path, {"counting": items})
    assert score(bench, dict.fromkeys(range(3), "(B)")).headline == 100.0
    assert score(bench, dict.fromkeys(range(3), answer)).headline == 100.0
    table = pd.read_csv(bench.dataset.data_file, sep="\t")  # what the kit itself had read
    assert list(table["answer"]) != [answer] * 3


def test_score_files_outlive_their_predictions(tmp_path: Path) -> None:
    mme = opened("Video-MME", tmp_path)
    first = raw(mme, dict(enumerate("ABCD")), tmp_path, model="exact_matching")
    again = raw(mme, dict(enumerate("BCDA")), tmp_path, model="exact_matching")  # the same name: another run's file
    assert first["overall"]["overall"] == again["overall"]["overall"] == "1.000"
    assert score(mme, dict(enumerate("ABCD"))).headline == 100.0
    assert score(mme, dict(enumerate("BCDA"))).headline == 0.0


class _Mumbling:
    fail_msg = "Failed to obtain answer via API."

    def working(self) -> bool:
        return True

    def generate(self, prompt: str) -> str:
        return "hard to say"


def test_a_random_option_after_a_judge_that_is_unsure(tmp_path: Path) -> None:
    bench = opened("MVBench", tmp_path, {"counting": [layouts.mvbench_question(i, i % 3) for i in range(40)]})
    replies = dict.fromkeys(range(40), "it is not to be seen")
    random.seed(0)
    with judge_installed("vlmeval.dataset.mvbench", _Mumbling()):
        right, total, _ = raw(bench, replies, tmp_path, model="mumbling")["overall"]
    assert total == 40 and right > 0
    got = score(bench, {**replies})
    assert got.headline == 0.0 and got.unparsed == 40


def test_a_silent_judge_is_no_rating_of_zero(tmp_path: Path) -> None:
    bench = opened("MMBench-Video", tmp_path)
    with judge_installed("vlmeval.dataset.mmbench_video", _Mumbling()):
        kits = raw(bench, dict.fromkeys(range(4), "a red block"), tmp_path, model="mumbling")
    assert kits["coarse_all"]["Overall"] == "0.00"  # a number, and not a word of the four missing verdicts


def test_a_number_that_contradicts_the_samples_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mme = opened("Video-MME", tmp_path)
    evaluate = mme.dataset.evaluate

    def miscounting(path: str, **judge: Any) -> Any:
        rating = evaluate(path, **judge)
        rating["overall"]["overall"] = "0.500"
        return rating

    monkeypatch.setattr(mme.dataset, "evaluate", miscounting, raising=False)
    with pytest.raises(ScoringError, match="gives 0.5000, the samples give 1.0000"):
        score(mme, dict(enumerate("ABCD")))


def test_an_error_in_the_kit_is_an_error(tmp_path: Path) -> None:
    bench = opened("MMBench-Video", tmp_path)
    dump = kit("vlmeval.smp").dump
    with quiet():
        dump(pd.Series([1]), str(tmp_path / "scores.json"))  # said to be JSON ...
    assert (tmp_path / "scores.pkl").exists()  # ... and a pickle lies there, with no error
    bench.rows["dimensions"] = "['No Such Dimension']"
    with pytest.raises(KeyError):
        score(bench, {0: "a red block"})


def test_keys_are_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1/chat/completions")
    wrapper = kit("vlmeval.api.gpt")
    monkeypatch.setattr(wrapper.logger, "propagate", True)
    with caplog.at_level(logging.DEBUG):
        wrapper.OpenAIWrapper("some-model")
        assert "sk-secret" in caplog.text
        caplog.clear()
        judge = Judge(JudgeConfig("http://127.0.0.1:9/v1", "m", max_retries=0, timeout=0.2, cache=tmp_path))
        with pytest.raises(RuntimeError) as error:
            judge.ask(Question("Is it red?"))
    traceback = "".join(str(entry.frame.f_locals) for entry in error.traceback[1:])
    assert "sk-secret" not in caplog.text + str(error.value) + repr(judge.config) + repr(judge) + traceback


def test_tls_stays_verified_after_the_kit_is_loaded() -> None:
    assert Path(kit().__file__).read_text().count("_create_unverified_context") == 1  # what its import does
    assert ssl._create_default_https_context is ssl.create_default_context


def test_quiet_holds_back_noise_and_not_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), quiet():
        print("noise")
        logging.getLogger("kit").error("noise")
        raise ZeroDivisionError
    assert capsys.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
