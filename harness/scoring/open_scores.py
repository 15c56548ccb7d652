"""Scores of the open benchmarks: MMBench-Video's rating, NExT-QA's WUPS, ActivityNet-QA's match or judgement."""

from __future__ import annotations

import pandas as pd

from harness.benchmarks.official import exact_match
from harness.benchmarks.opened import OpenBenchmark
from harness.scoring import protocols
from harness.scoring.evaluation import (
    EXACT,
    JUDGED,
    AnyJudge,
    Index,
    Line,
    Result,
    Workdir,
    agree,
    evaluate,
    own_groups,
)
from harness.scoring.judge import JudgeConfig
from harness.scoring.kit_scores import exact_scores, vqa_scores
from harness.scoring.mmvet_scores import mmvet_scores
from harness.scoring.verdicts import KnownVerdicts, judge_verdicts
from harness.vlmevalkit import judge_installed
from model_wrappers.errors import UserError


def open_scores(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    """The benchmark's metric, see `harness.scoring.score`. A blank reply is wrong without asking any judge."""
    methods = {
        "MMVet": mmvet_scores,
        "MMBench-Video": _mmbench_video,
        "NExT-QA-OE": _next_oe,
        "ActivityNet-QA": _activitynet,
        "vqa": vqa_scores,
        "exact": exact_scores,
    }
    return methods[benchmark.entry.scored_as](benchmark, lines, judge, workdir)


def _mmbench_video(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    ratings: dict[Index, int]
    if isinstance(judge, JudgeConfig):
        note = JUDGED + judge.model
        blank: dict[Index, int] = {line.index: 0 for line in lines if not line.reply.strip()}
        asked = {line.index: protocols.rating(line.row, line.reply) for line in lines if line.index not in blank}
        ratings = blank | judge_verdicts(judge, asked, protocols.read_rating)
    elif judge == "exact":
        note = EXACT
        ratings = {line.index: 3 * exact_match(line.reply, [line.row["answer"]]) for line in lines}
    else:
        raise UserError(
            "MMBench-Video is rated by a judge; give one with base_url and model, or `exact` for closed answers"
        )
    lines = [line for line in lines if line.index in ratings]
    if not lines:
        return Result({}, {}, note, scored=note)
    by_number = {f"sample {position}": str(ratings[line.index]) for position, line in enumerate(lines)}
    table = pd.DataFrame(
        [
            {
                "index": position,
                "question": "?",
                "answer": "?",
                "dimensions": line.row["dimensions"],
                "prediction": f"sample {position}",
            }
            for position, line in enumerate(lines)
        ]
    )
    with judge_installed(benchmark.entry.module, KnownVerdicts(by_number, "Candidate answer: ", "\n")):
        rating = evaluate(benchmark, table, workdir, model="retain", nproc=1)
    per_sample = {line.index: ratings[line.index] / 3 for line in lines}
    overall = float(rating["coarse_all"]["Overall"]) / 3
    agree(benchmark, overall, sum(per_sample.values()) / len(lines), 0.005 / 3 + 1e-9)
    groups = rating["coarse_all"] | rating["fine_all"]
    by_group = {name: float(value) for name, value in groups.items() if value != "nan" and name != "Overall"}
    return Result(per_sample, by_group, note, scored=note)


def _next_oe(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    if judge == "exact":
        note = EXACT
        per_sample = {line.index: float(exact_match(line.reply, line.row["references"])) for line in lines}
    else:
        from harness.scoring.wups import WUPS

        wups, note = WUPS.load(), "WUPS, threshold 0"
        per_sample = {line.index: wups.score(line.reply, line.row["references"], line.row["type"]) for line in lines}
    return Result(per_sample, own_groups(benchmark, lines, per_sample), note, scored=note)


def _activitynet(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    exact = {line.index: float(exact_match(line.reply, [line.row["answer"]])) for line in lines}
    if not isinstance(judge, JudgeConfig):
        return Result(exact, own_groups(benchmark, lines, exact), EXACT, scored=EXACT)
    asked = {line.index: protocols.activitynet(line.row, line.reply) for line in lines if line.reply.strip()}
    blank = {line.index: protocols.Correctness(False, 0.0) for line in lines if not line.reply.strip()}
    verdicts = blank | judge_verdicts(judge, asked, protocols.read_correctness)
    per_sample = {index: float(verdict.right) for index, verdict in verdicts.items()}
    metrics = {}
    if verdicts:
        metrics["mean judge score"] = sum(verdict.score for verdict in verdicts.values()) / len(verdicts)
        metrics["exact match"] = 100 * sum(exact.values()) / len(exact)
    groups = own_groups(benchmark, lines, per_sample)
    note = JUDGED + judge.model
    return Result(per_sample, groups, note, metrics=metrics, scored=note)
