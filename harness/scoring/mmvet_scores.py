"""Scores of MMVet: a judge's 0 to 1, or exact match for closed answers, over all and by capability."""

from __future__ import annotations

import re

import pandas as pd

from harness.benchmarks.official import exact_match, grouped, plain
from harness.benchmarks.opened import OpenBenchmark
from harness.benchmarks.tsv import MMVET_CAPABILITIES
from harness.scoring import protocols
from harness.scoring.evaluation import EXACT, JUDGED, AnyJudge, Index, Line, Result, Workdir, agree, evaluate
from harness.scoring.judge import JudgeConfig
from harness.scoring.verdicts import KnownVerdicts, judge_verdicts
from harness.vlmevalkit import judge_installed
from model_wrappers.errors import UserError

_SEPARATORS = re.compile(r"[\s,;.&]+|\band\b")


def mmvet_scores(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    """MMVet's mean score, 0 to 100. A blank reply is wrong without asking any judge."""
    scores: dict[Index, float]
    if isinstance(judge, JudgeConfig):
        note = JUDGED + judge.model
        blank = {line.index: 0.0 for line in lines if not line.reply.strip()}
        asked = {line.index: protocols.correctness_score(line.row, line.reply) for line in lines}
        asked = {index: question for index, question in asked.items() if index not in blank}
        scores = blank | judge_verdicts(judge, asked, protocols.read_correctness_score)
    elif judge == "exact":
        note = EXACT
        scores = {line.index: float(exact_parts(line.reply, line.row["answer"])) for line in lines}
    else:
        raise UserError(
            f"{benchmark.name} is scored by a judge; give one with base_url and model, or `exact` for closed answers"
        )
    lines = [line for line in lines if line.index in scores]
    per_sample = {line.index: scores[line.index] for line in lines}
    if not lines:
        return Result({}, {}, note, scored=note)
    return Result(per_sample, _by_capability(benchmark, lines, per_sample, workdir), note, scored=note)


def exact_parts(reply: str, reference: str) -> bool:
    """Whether `reply` is one of the reference's `<OR>` alternatives: all its `<AND>` parts and nothing else.

    Parts may come in any order, with commas or `and` between them; compared as `exact_match` compares.
    """
    return any(_all_parts(reply, alternative.split("<AND>")) for alternative in reference.split("<OR>"))


def _all_parts(reply: str, parts: list[str]) -> bool:
    if len(parts) == 1:
        return exact_match(reply, parts)
    rest = f" {plain(reply)} "
    for part in sorted(map(plain, parts), key=len, reverse=True):
        found = re.search(rf"(?<![\w-]){re.escape(part)}(?!\w)", rest) if part else None
        if found is None:
            return False
        rest = f"{rest[: found.start()]} , {rest[found.end() :]}"
    return _SEPARATORS.sub("", rest) == ""


def _by_capability(
    benchmark: OpenBenchmark, lines: list[Line], per_sample: dict[Index, float], workdir: Workdir
) -> dict[str, float]:
    """Mean score (percent) by capability; ScoringError if the kit's overall score is not the samples'.

    The kit divides by zero where a capability has no question: it gets one of score 0 for each such capability. And it
    counts a question that asks for one capability alone twice in that one; the means by capability here do not.
    """
    rows = [(line.row["category"], per_sample[line.index]) for line in lines]
    absent = [name for name in MMVET_CAPABILITIES if not any(name in category for category, _ in rows)]
    rows += [(name, 0.0) for name in absent]
    table = pd.DataFrame(
        [
            {"index": i, "question": "?", "answer": "?", "category": category, "prediction": f"sample {i}"}
            for i, (category, _) in enumerate(rows)
        ]
    )
    verdicts = {f"sample {position}": repr(score) for position, (_, score) in enumerate(rows)}
    with judge_installed(benchmark.entry.module, KnownVerdicts(verdicts, " | ? | ", " | ")):
        found = evaluate(benchmark, table, workdir, model="retain", nproc=1)
    kits = dict(zip(found["Category"], found["acc"], strict=True))
    overall = float(kits["Overall"]) / 100 * len(rows) / len(lines)
    agree(benchmark, overall, sum(per_sample.values()) / len(lines), 1e-9)
    means = grouped(per_sample, {line.index: line.row["category"].split(",") for line in lines}, 100.0)
    return {name: means[name] for name in MMVET_CAPABILITIES if name in means}
