"""What judges were asked and what it cost, for a reader and for a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from harness.judging.account import Account
from harness.judging.ledger import Tally
from harness.judging.models import Price, price_of


class Asked(Protocol):
    """What is said of a judge: see `harness.scoring.judge.JudgeConfig`."""

    @property
    def base_url(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def price(self) -> Price | None: ...


def record(account: Account, judges: Mapping[str, Asked]) -> dict[str, Any]:
    """What an experiment's judges were asked, as JSON: by benchmark and summed up, in this run and in all runs.

    Dollars that are not known are null, never 0; see `Tally` for what the sums leave out.
    """
    in_all = account.in_all()
    benchmarks = {}
    for name, judge in judges.items():
        price = judge.price or price_of(judge.base_url, judge.model)
        benchmarks[name] = {
            "judge": judge.model,
            "base_url": judge.base_url,
            "price_per_million_tokens": asdict(price) if price else None,
            "remembered_verdicts": account.remembered.get(name, 0),
            "this_run": _sums(account.run.get(name, Tally())),
            "in_all": _sums(in_all.get(name, Tally())),
        }
    return {
        "experiment": account.experiment,
        "limit_usd": account.limit,
        "stopped": account.stopped,
        "this_run": _sums(_total(account.run)),
        "in_all": _sums(_total(in_all)),
        "benchmarks": benchmarks,
    }


def sentences(judging: Mapping[str, Any]) -> list[str]:
    """What the end of a run says of a `record`: a line a benchmark, and one for all."""
    said = [
        f"{name}, judged by {each['judge']}: {_in_words(each['this_run'])}, {each['remembered_verdicts']} remembered"
        for name, each in judging["benchmarks"].items()
    ]
    limit = judging["limit_usd"]
    of = "" if limit is None else f", of a limit of ${limit:g}"
    return [*said, f"All judging of {judging['experiment']} so far: {_in_words(judging['in_all'])}{of}"]


def _total(tallies: Mapping[str, Tally]) -> Tally:
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    return total


def _sums(tally: Tally) -> dict[str, Any]:
    counted = tally.calls > tally.unknown or not tally.calls
    priced = tally.calls > tally.unpriced + tally.bounded or not tally.calls
    return {
        "calls": tally.calls,
        "prompt_tokens": tally.prompt_tokens if counted else None,
        "completion_tokens": tally.completion_tokens if counted else None,
        "calls_of_unknown_tokens": tally.unknown,
        "usd": round(tally.usd, 9) if priced else None,
        "calls_of_unknown_price": tally.unpriced,
        "usd_of_unknown_tokens_at_most": round(tally.most_usd, 9),
    }


def _in_words(sums: Mapping[str, Any]) -> str:
    calls = sums["calls"]
    if not calls:
        return "no calls"
    said = [f"{calls} call{'s' if calls > 1 else ''}"]
    if sums["prompt_tokens"] is not None:
        said.append(f"{sums['prompt_tokens']:,} + {sums['completion_tokens']:,} tokens")
    if sums["calls_of_unknown_tokens"]:
        said.append(f"tokens of {sums['calls_of_unknown_tokens']} unknown")
    if sums["usd"] is not None:
        said.append(f"${sums['usd']:.4f}")
    if most := sums["usd_of_unknown_tokens_at_most"]:
        said.append(f"at most ${most:.4f} for those")
    if unpriced := sums["calls_of_unknown_price"]:
        said.append("price unknown" if unpriced == calls else f"price of {unpriced} unknown")
    return ", ".join(said)
