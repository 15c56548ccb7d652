"""What a judge costs, and the limit on it: tokens, prices, calls in flight, two processes, over real HTTP."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.judging.account import Account
from harness.judging.ledger import Ledger
from harness.judging.models import DEFAULTS, LAST_DAYS, OPENAI, PRICES, Price, price_of
from harness.scoring.judge import Judge, JudgeConfig, JudgeError, Question
from model_wrappers.errors import UserError
from tests.scoring.conftest import LoopbackJudge
from tests.scoring.test_judge import lines

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
PRICE = Price(10.0, 30.0)
CALL = 0.0013
"""US dollars: 100 x $10 and 10 x $30 for a million tokens."""
BIG = Question("?" * 968, "", max_tokens=100)
"""984 tokens at most, and 100: a call is paid for in advance with $0.01284."""
ADVANCE = 0.01284


def many(count: int) -> dict[int, Question]:
    return {number: Question(f"{number:04}" + BIG.prompt[4:], "", 100) for number in range(count)}


def test_tokens_and_cost_are_written_with_each_verdict(loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.usage = USAGE
    account = Account(tmp_path, "table9 paper")
    judge = Judge(loopback.config(tmp_path, price=PRICE, account=account, purpose="MMVet"))
    judge.ask(Question("Is it red?"))
    (line,) = lines(tmp_path)
    assert (line["usage"], line["usd"], line["most_usd"]) == ([100, 10], pytest.approx(CALL), None)
    assert (line["for"], line["served"], line["outcome"]) == (["table9 paper", "MMVet"], "served-judge", "verdict")
    assert vars(account.run["MMVet"]) == {
        **dict.fromkeys(("unknown", "unpriced", "bounded", "most_usd"), 0),
        **{"calls": 1, "prompt_tokens": 100, "completion_tokens": 10, "usd": pytest.approx(CALL)},
    }


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": 5},
        {"prompt_tokens": "5", "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        [5, 1],
    ],
)
def test_tokens_that_a_server_does_not_count_are_unknown_and_not_zero(
    usage: Any, loopback: LoopbackJudge, tmp_path: Path
) -> None:
    loopback.usage = usage
    account = Account(tmp_path, "t")
    assert Judge(loopback.config(tmp_path, price=PRICE, account=account, purpose="b")).ask(BIG) == "OK"
    (line,) = lines(tmp_path)
    assert (line["usage"], line["usd"]) == (None, None) and line["most_usd"] == pytest.approx(ADVANCE)
    tally = account.run["b"]
    assert (tally.unknown, tally.bounded, tally.usd, tally.prompt_tokens) == (1, 1, 0.0, 0)
    assert account.spent == pytest.approx(ADVANCE)  # against a limit, the most that it can have cost


def test_without_a_price_there_are_tokens_and_no_cost(loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.usage = USAGE
    account = Account(tmp_path, "t")
    Judge(loopback.config(tmp_path, account=account, purpose="b")).ask(BIG)
    (line,) = lines(tmp_path)
    assert (line["usage"], line["usd"], line["most_usd"]) == ([100, 10], None, None)
    assert (account.run["b"].unpriced, account.run["b"].prompt_tokens) == (1, 100)
    with pytest.raises(UserError, match="limit in dollars cannot be kept without its price"):
        Judge(loopback.config(tmp_path, account=Account(tmp_path, "t", limit=1.0)))


def test_prices_hold_at_openai_alone() -> None:
    assert price_of(OPENAI, "gpt-4-1106-preview") == PRICES["gpt-4-1106-preview"]
    assert price_of("https://api.openai.com/v1/chat/completions", "gpt-4o") is not None
    assert price_of("http://localhost:8000/v1", "gpt-4o") is None
    assert price_of("https://api.openai.com.example.org/v1", "gpt-4o") is None
    assert price_of(OPENAI, "gpt-9") is None
    assert all(price.date and price.source for price in PRICES.values())
    assert set(DEFAULTS.values()) <= set(PRICES) and set(LAST_DAYS) <= set(PRICES)
    assert PRICES["gpt-4-1106-preview"].dollars(1_000_000, 2_000_000) == 70.0


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_the_limit_is_not_crossed_however_many_calls_are_in_flight(
    workers: int, loopback: LoopbackJudge, tmp_path: Path
) -> None:
    loopback.usage = USAGE
    limit = ADVANCE + 9.5 * CALL  # ten calls fit: the last one still has room for what it might have cost
    account = Account(tmp_path, "t", limit=limit)
    config = loopback.config(tmp_path, price=PRICE, workers=workers, account=account, purpose="b")
    replies = Judge(config).ask_all(many(40), bool)
    judged = {number for number, reply in replies.items() if reply is not None}
    assert len(judged) == len(loopback.requests) == 10
    assert account.spent == pytest.approx(10 * CALL) and account.spent <= limit
    assert "limit of $" in account.stopped["test-judge"]
    # The same again: nothing fits any more, and what was judged is known.
    again = Account(tmp_path, "t", limit=limit)
    assert again.spent == pytest.approx(10 * CALL)
    more = Judge(loopback.config(tmp_path, price=PRICE, account=again, purpose="b")).ask_all(many(40), bool)
    assert more == replies and len(loopback.requests) == 10 and again.remembered == {"b": 10}
    # A higher limit goes on from there.
    higher = Account(tmp_path, "t", limit=1.0)
    rest = Judge(loopback.config(tmp_path, price=PRICE, account=higher, purpose="b")).ask_all(many(40), bool)
    assert all(rest.values()) and len(loopback.requests) == 40 and higher.stopped == {}
    assert higher.spent == pytest.approx(40 * CALL) and higher.in_all()["b"].calls == 40


def test_the_limit_holds_over_retries_and_replies_that_are_no_verdict(loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.usage = USAGE
    loopback.script = ["cut"] * 20
    account = Account(tmp_path, "t", limit=2.5 * ADVANCE)
    config = loopback.config(tmp_path, price=PRICE, max_retries=10, workers=1, account=account, purpose="b")
    assert Judge(config).ask_all(many(3), bool) == {0: None, 1: None, 2: None}
    assert len(loopback.requests) == 2 and account.spent == pytest.approx(2 * ADVANCE)
    loopback.script.clear()
    other = Account(tmp_path / "other", "t", limit=ADVANCE + 1.5 * CALL)
    config = loopback.config(tmp_path / "other", price=PRICE, account=other, purpose="b")
    assert Judge(config).ask_all({0: BIG}, lambda reply: False) == {0: None}
    assert len(loopback.requests) == 2 + 2 and other.spent == pytest.approx(2 * CALL)
    assert [line["outcome"] for line in lines(tmp_path / "other")] == ["unusable"] * 2


def test_an_account_that_asks_nothing_uses_what_is_there(
    loopback: LoopbackJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Judge(loopback.config(tmp_path)).ask(many(1)[0])
    monkeypatch.delenv("OPENAI_API_KEY")
    account = Account(tmp_path, "t", asks=False)
    replies = Judge(loopback.config(tmp_path, account=account, purpose="b")).ask_all(many(2), bool)
    assert replies == {0: "OK", 1: None} and len(loopback.requests) == 1
    assert "only `retain run` asks" in account.stopped["test-judge"]


def test_a_judge_that_is_down_is_asked_no_more_in_a_run_and_its_verdicts_are_kept(
    loopback: LoopbackJudge, tmp_path: Path
) -> None:
    loopback.script = [None] * 3 + [503] * 100
    account = Account(tmp_path, "t")
    judge = Judge(loopback.config(tmp_path, workers=2, max_retries=1, account=account, purpose="b"))
    replies = judge.ask_all(many(9), bool)
    assert sum(reply is not None for reply in replies.values()) == 3
    assert "did not answer after 2 tries (HTTP 503)" in account.stopped["test-judge"]
    asked = len(loopback.requests)
    assert Judge(loopback.config(tmp_path, account=account, purpose="c")).ask_all(many(12), bool)[11] is None
    assert len(loopback.requests) == asked
    loopback.script.clear()
    fresh = Account(tmp_path, "t")
    assert all(Judge(loopback.config(tmp_path, account=fresh, purpose="b")).ask_all(many(9), bool).values())
    assert len(loopback.requests) == asked + 6 and fresh.remembered == {"b": 3}


def test_another_judge_or_server_is_another_verdict(loopback: LoopbackJudge, tmp_path: Path) -> None:
    Judge(loopback.config(tmp_path)).ask(BIG)
    other = JudgeConfig(loopback.url.replace("127.0.0.1", "localhost"), "test-judge", cache=tmp_path)
    Judge(other).ask(BIG)
    Judge(JudgeConfig(loopback.url, "test judge", cache=tmp_path)).ask(BIG)  # its file is that of test-judge
    assert len(loopback.requests) == 3
    assert len({line["key"] for line in lines(tmp_path)}) == 3


def test_the_same_question_at_the_same_time_is_asked_once(loopback: LoopbackJudge, tmp_path: Path) -> None:
    def slow(payload: dict[str, Any]) -> str:
        time.sleep(0.3)
        return "OK"

    loopback.reply = slow
    threads = [
        threading.Thread(target=lambda: Judge(loopback.config(tmp_path)).ask_all(many(3), bool)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loopback.requests) == 3 and len(lines(tmp_path)) == 3


def _ask(url: str, folder: Path) -> None:
    Judge(JudgeConfig(url, "test-judge", cache=folder, backoff=0.01)).ask_all(many(12), bool)


def test_two_processes_ask_each_question_once(loopback: LoopbackJudge, tmp_path: Path) -> None:
    def slow(payload: dict[str, Any]) -> str:
        time.sleep(0.1)
        return "OK"

    loopback.reply = slow
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_ask, args=(loopback.url, tmp_path)) for _ in range(2)]
    for other in others:
        other.start()
    _ask(loopback.url, tmp_path)
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert len(loopback.requests) == 12 and len({line["key"] for line in lines(tmp_path)}) == 12


def test_a_ledger_reads_what_others_append(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path / "m.jsonl"), Ledger(tmp_path / "m.jsonl")
    one.add({"key": "a", "outcome": "verdict", "reply": "yes", "for": ["t", "b"], "usage": [1, 2], "usd": 0.5})
    assert other.get("a") is None
    with other.alone("a") as known:
        assert known == "yes" and other.tallies["t", "b"].usd == 0.5
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"key": "b", "outcome": "verdict", "rep')
    other.add({"key": "c", "outcome": "verdict", "reply": "no", "for": ["t", "b"], "usage": None})
    assert (other.get("b"), other.get("c")) == (None, "no") and other.tallies["t", "b"].unknown == 1
    assert Ledger(tmp_path / "m.jsonl").get("c") == "no"
    torn = [line for line in (tmp_path / "m.jsonl").read_text().splitlines() if '"b", "outcome"' in line]
    assert len(torn) == 1 and not json.loads((tmp_path / "m.jsonl").read_text().splitlines()[-1])["usage"]


def test_without_an_account_a_failure_is_raised(loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.script = [500] * 50
    with pytest.raises(JudgeError, match="HTTP 500"):
        Judge(loopback.config(tmp_path, max_retries=0)).ask_all(many(5), bool)
