"""What judging an experiment will take, before anything is asked: calls, tokens and dollars by benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.judging.models import Price, last_day, price_of

if TYPE_CHECKING:
    from harness.plan import Data, Plan

BYTES_A_TOKEN = 4
"""Of English text, by OpenAI's own rule of thumb; the prompts are English."""
REPLY_TOKENS = 40
"""Of a model's answer, which is part of the prompt; the open answers of these benchmarks are a word to a few lines."""
VERDICT_TOKENS = 16
"""Of a judge's reply, where it may be longer: a number, a letter, or a dictionary of two keys."""
_ASKED = {"MMVet": "correctness_score", "MMBench-Video": "rating", "ActivityNet-QA": "activitynet"}
"""By what a benchmark is scored as, the question in `harness.scoring.protocols`."""


@dataclass(frozen=True)
class Estimate:
    """What judging one benchmark will take: guesses, but for `calls`, which is the most that there can be.

    Equal answers to a question are asked once and blank ones never, so there may be far fewer calls. `unclear_only`: a
    judge reads only replies in which no option can be read, so there are between none and `calls`. `dollars`: None
    where the price is not known. `last_day`: the last on which OpenAI announced to serve the model; None where unknown.
    """

    benchmark: str
    judge: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None
    unclear_only: bool
    last_day: str | None


def estimate(plan: Plan, data: Data) -> list[Estimate]:
    """What judging the cells of a plan will take, for each benchmark that has a judge; verdicts that are there count
    as if they were not. Opens those benchmarks, and loads what words the questions.

    Raises UserError where a benchmark's data is missing.
    """
    from harness.experiments import Judge

    found = []
    for name in plan.experiment.benchmarks:
        judge = plan.experiment.judge_of(name)
        if not isinstance(judge, Judge) or judge.model is None:
            continue
        entry = data.open(name).entry
        if entry.kind != "choice" and entry.kind != "yes/no" and entry.scored_as not in _ASKED:
            continue  # WUPS, exact match or VLMEvalKit's own rule: no judge is asked
        cells = sum(cell.benchmark == name for cell in plan.cells)
        prompt, completion = _tokens_of_all(data.open(name), set(plan.samples[name]))
        given = judge.price
        price = Price(given.prompt, given.completion) if given else price_of(judge.base_url, judge.model)
        found.append(
            Estimate(
                name,
                judge.model,
                cells * len(plan.samples[name]),
                cells * prompt,
                cells * completion,
                price.dollars(cells * prompt, cells * completion) if price else None,
                entry.kind != "open",
                last_day(judge.base_url, judge.model),
            )
        )
    return found


def _tokens_of_all(opened: Any, indices: set[Any]) -> tuple[int, int]:
    """Tokens of prompts and completions, if each of the samples is asked about once."""
    from harness.store import plain_index

    prompts = completions = 0
    for index, row in zip(opened.indices, opened.rows.to_dict("records"), strict=True):
        if plain_index(index) not in indices:
            continue
        question = _question(opened.entry, row)
        size = sum(len(message["content"].encode()) for message in question.messages())
        prompts += size // BYTES_A_TOKEN + REPLY_TOKENS
        completions += min(question.max_tokens, VERDICT_TOKENS)
    return prompts, completions


def _question(entry: Any, row: Mapping[str, Any]) -> Any:
    """What a judge would be asked about a row, its answer left empty."""
    from harness.scoring import protocols

    line = {str(column): value for column, value in row.items()}
    if entry.kind == "choice":
        return protocols.option(line["question"], list("ABCD"), "")
    if entry.kind == "yes/no":
        return protocols.yes_no(line["question"], "")
    return getattr(protocols, _ASKED[entry.scored_as])(line, "")
