"""Scores of answers: VLMEvalKit's own metrics, given only what they cannot get wrong.

What the kit gets wrong, and what is done here:

- Its MVBench counts failed, empty, `(`, blank, `None` and `N/A` answers as right and miscounts an `index` with gaps;
  its Video-MME reads `Best answer: C` as B and `Cat` as C; both may draw a random option when a judge is unsure. So
  options are read here (`choices.parse_choice`) and the kit gets bare letters, `Z` for none, with rows counted from 0.
- Its spreadsheets turn `None`, `N/A`, `=1+1`, `007` into something else. So no answer passes through a spreadsheet: the
  kit's files hold letters, or a sample's number under which its evaluation finds the verdict.
- It reuses score files that it finds by name. So each evaluation has a fresh folder, gone afterwards.
- It counts what a judge failed to say as 0. So judges are asked here (`harness.scoring.judge`), and a verdict that is
  missing makes the score incomplete.
- Its MME fails on a picture with one question of its two, and reads any `no` in a reply as No; its MMVet fails without
  a question for each capability; its MCQ report fails on or drops a category `None`. They get what they can count.
- It swallows errors. So it is called directly, and its numbers are compared with those of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.benchmarks.opened import OpenBenchmark
from harness.scoring.choice_scores import choice_scores
from harness.scoring.evaluation import PARTLY_JUDGED, AnyJudge, Index, Line, ScoringError, Workdir
from harness.scoring.judge import JudgeConfig, JudgeError
from harness.scoring.kit_scores import kit_scores
from harness.scoring.open_scores import open_scores
from harness.scoring.yes_no_scores import yes_no_scores
from model_wrappers.errors import UserError

__all__ = ["AnyJudge", "JudgeConfig", "JudgeError", "Score", "ScoringError", "score"]


_METHODS = {"choice": choice_scores, "yes/no": yes_no_scores, "open": open_scores, "other": kit_scores}


@dataclass(frozen=True)
class Score:
    """What a benchmark's answers are worth.

    `headline`: the benchmark's metric in 0..`scale`, or None while anything is missing. `by_group`: the same by
    question type (empty while incomplete). `per_sample`: in [0, 1], by index, for every sample that has a score. `n`:
    how many have. `failed`: samples asked for without an answer or a verdict. `total`: samples in the benchmark.
    `unparsed`: replies in which no option could be read (they are wrong). `metrics`: further official numbers. `note`:
    how scored, in words. `scored`: by what, where there are several ways (see `Result`).

    `contributions` and `strata`, by index as `per_sample`: the headline is the sum over the strata of `stratum_scale`
    times the mean contribution. Mostly there is one stratum, and the contributions are the scores. In MME a stratum is
    a category, and a contribution 0 to 2: the answer is right, and so are all answers about its picture (of a picture
    with one question asked, that one). `stratum_scale` None: the headline is no such mean (`note` says what it is), so
    no interval can be had from the samples; the contributions are then the scores.
    """

    headline: float | None
    by_group: dict[str, float]
    per_sample: dict[Index, float]
    n: int
    failed: int
    total: int
    note: str = ""
    scored: str = ""
    unparsed: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    contributions: dict[Index, float] = field(default_factory=dict)
    strata: dict[Index, str] = field(default_factory=dict)
    stratum_scale: float | None = None


def score(
    benchmark: OpenBenchmark,
    predictions: Mapping[Index, str | None],
    *,
    judge: AnyJudge = "exact",
    workdir: Workdir = None,
) -> Score:
    """Score `predictions` (by index; None: the sample failed) with the benchmark's metric.

    `judge="exact"`: open answers are right if they are the reference, but for case and outer punctuation; for the short
    closed answers of the micro editions. `"official"`: the official metric that needs no judge (WUPS for NExT-QA-OE,
    exact match for ActivityNet-QA). A JudgeConfig: MMBench-Video's rating, ActivityNet-QA's judge accuracy, WUPS for
    NExT-QA-OE, and for the choice benchmarks the option that an unclear reply means. `workdir`: where the kit's files
    may lie while it works.

    Raises UserError (an index that the benchmark lacks; MMBench-Video without a judge; no WordNet), JudgeError (the
    judge stays silent and has no account to say so on: nothing is lost, call again) and ScoringError.
    """
    known = set(benchmark.indices)
    for index in predictions:
        if index not in known:
            raise UserError(f"{benchmark.name} has no sample {index!r}; the answers belong to other data")
    lines = [
        Line(index, {str(column): value for column, value in row.items()}, reply)
        for index, row in zip(benchmark.indices, benchmark.rows.to_dict("records"), strict=True)
        if (reply := predictions.get(index)) is not None
    ]
    result = _METHODS[benchmark.entry.kind](benchmark, lines, judge, workdir)
    missing = len(predictions) - len(result.per_sample)
    complete = missing == 0 and bool(result.per_sample)
    scored = result.scored
    if isinstance(judge, JudgeConfig) and benchmark.entry.kind in ("choice", "yes/no"):
        scored = PARTLY_JUDGED + judge.model
    scale = benchmark.entry.scale
    contributions, strata = result.parts()
    return Score(
        headline=result.headline(scale) if complete else None,
        by_group=result.by_group if complete else {},
        per_sample=result.per_sample,
        n=len(result.per_sample),
        failed=missing,
        total=len(benchmark),
        note=result.note,
        scored=scored,
        unparsed=result.unparsed,
        metrics=result.metrics if complete else {},
        contributions=contributions,
        strata=strata,
        stratum_scale=None if result.kits is not None else scale if result.scale is None else result.scale,
    )
