"""What judging an experiment will take, before anything is asked: calls, tokens and dollars by benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.estimate.lengths import RESPONSE
from harness.judging.models import Price, price_of

if TYPE_CHECKING:
    from harness.benchmarks import Benchmark
    from harness.experiments import Experiment, Judge
    from harness.judging.endpoint import Question
    from harness.plan import Data, Plan

BYTES_A_TOKEN = 4
"""Of English text, by OpenAI's own rule of thumb; the prompts are English."""
REPLY_TOKENS = RESPONSE["open"]
"""Of a model's answer, which is part of the prompt."""
VERDICT_TOKENS = 16
"""Of a judge's reply, where it may be longer: a number, a letter, or a dictionary of two keys."""
WORDS = 20
"""Of a question, and of its reference answer, where the data that tells is not here."""
QUESTION = " ".join(["words"] * WORDS)
_ASKED = {"MMVet": "correctness_score", "MMBench-Video": "rating", "ActivityNet-QA": "activitynet"}
"""By what a benchmark is scored as, the question in `harness.scoring.protocols`."""


@dataclass(frozen=True)
class Estimate:
    """What judging one benchmark will take: guesses, but for `calls`, which is the most that there can be.

    Equal answers to a question are asked once and blank ones never, and of a choice only replies in which no option can
    be read, so there may be far fewer calls. `dollars`: None where the price is not known.
    """

    benchmark: str
    judge: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None


def estimate(plan: Plan, data: Data) -> list[Estimate]:
    """What judging the cells of a plan will take, for each benchmark that has a judge; verdicts that are there count
    as if they were not. Opens those benchmarks, and loads what words the questions.

    Raises UserError where a benchmark's data is missing.
    """
    found = []
    for name in plan.experiment.benchmarks:
        judge = _judge_of(plan.experiment, name, data.folder)
        if judge is None:
            continue
        opened = data.open(name)
        cells = sum(cell.benchmark == name for cell in plan.cells)
        tokens = _tokens_of_all(opened, set(plan.samples[name]))
        found.append(_estimate(judge, opened.entry, cells, len(plan.samples[name]), tokens))
    return found


def estimate_without_data(experiment: Experiment, name: str, cells: int, samples: int) -> Estimate | None:
    """What judging so many cells of so many samples of a benchmark will take, if each question and its answer were
    `QUESTION`; None where no judge is asked. Loads what words the questions.
    """
    from harness.benchmarks import benchmark

    judge = _judge_of(experiment, name, None)
    if judge is None:
        return None
    entry = benchmark(name)
    prompt, completion = _tokens(_question(entry, {"question": QUESTION, "answer": QUESTION}))
    return _estimate(judge, entry, cells, samples, (samples * prompt, samples * completion))


def price_for(judge: Judge) -> Price | None:
    """What a judge's tokens cost: as the experiment says, else as is known; None where it is not."""
    assert judge.model is not None  # the loader saw to it
    given = judge.price
    return Price(given.prompt, given.completion) if given else price_of(judge.base_url, judge.model)


def _judge_of(experiment: Experiment, name: str, data: Path | None) -> Judge | None:
    """The judge that is asked about a benchmark's answers; None for WUPS, exact match and VLMEvalKit's own rules."""
    from harness.benchmarks import benchmark
    from harness.experiments import Judge

    judge = experiment.judge_of(name)
    if not isinstance(judge, Judge) or judge.model is None:
        return None
    entry = benchmark(name, data)
    return judge if entry.kind in ("choice", "yes/no") or entry.scored_as in _ASKED else None


def _estimate(judge: Judge, entry: Benchmark, cells: int, samples: int, tokens: tuple[int, int]) -> Estimate:
    """`tokens`: of prompts and completions, if each sample is asked about once."""
    assert judge.model is not None  # see _judge_of
    price, (prompt, completion) = price_for(judge), (cells * tokens[0], cells * tokens[1])
    return Estimate(
        entry.name,
        judge.model,
        cells * samples,
        prompt,
        completion,
        price.dollars(prompt, completion) if price else None,
    )


def _tokens_of_all(opened: Any, indices: set[Any]) -> tuple[int, int]:
    """Tokens of prompts and completions, if each of the samples is asked about once."""
    from harness.store import plain_index

    prompts = completions = 0
    for index, row in zip(opened.indices, opened.rows.to_dict("records"), strict=True):
        if plain_index(index) not in indices:
            continue
        prompt, completion = _tokens(_question(opened.entry, row))
        prompts, completions = prompts + prompt, completions + completion
    return prompts, completions


def _tokens(question: Question) -> tuple[int, int]:
    """Of a prompt, with the answer that it will have, and of its completion."""
    size = sum(len(message["content"].encode()) for message in question.messages())
    return size // BYTES_A_TOKEN + REPLY_TOKENS, min(question.max_tokens, VERDICT_TOKENS)


def _question(entry: Benchmark, row: Mapping[str, Any]) -> Question:
    """What a judge would be asked about a row, its answer left empty."""
    from harness.scoring import protocols

    line = {str(column): value for column, value in row.items()}
    if entry.kind == "choice":
        return protocols.option(line["question"], list("ABCD"), "")
    if entry.kind == "yes/no":
        return protocols.yes_no(line["question"], "")
    return getattr(protocols, _ASKED[entry.scored_as])(line, "")
