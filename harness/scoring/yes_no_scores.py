"""Scores of questions to be answered with yes or no: MME, and whatever the kit's ImageYORNDataset rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.benchmarks.choices import parse_yes_no
from harness.benchmarks.opened import OpenBenchmark
from harness.benchmarks.tsv import MME_PERCEPTION, MME_REASONING
from harness.scoring import protocols
from harness.scoring.evaluation import AnyJudge, Index, Line, Result, Workdir, agree, evaluate, primary_metric
from harness.scoring.judge import Judge, JudgeConfig
from model_wrappers.errors import UserError


def yes_no_scores(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    """The kit's rating of strictly read answers. With a JudgeConfig, an unclear reply is put to the judge."""
    said = {line.index: parse_yes_no(line.reply) for line in lines}
    unread: set[Index] = set()
    note = ""
    if isinstance(judge, JudgeConfig):
        note = f"yes and no in unclear replies read by {judge.model}"
        verdicts = _ask(judge, lines, said)
        unread = {index for index, verdict in verdicts.items() if verdict is None}
        said |= {index: verdict for index, verdict in verdicts.items() if verdict != "Unknown"}
    lines = [line for line in lines if line.index not in unread]
    truth = {line.index: _truth(benchmark, line.row) for line in lines}
    per_sample = {line.index: float(said[line.index] == truth[line.index]) for line in lines}
    if not lines:
        return Result({}, {}, note)
    rate = _mme if benchmark.entry.scored_as == "MME" else _rated
    result = rate(benchmark, lines, said, per_sample, workdir)
    result.note = "; ".join(part for part in (note, result.note) if part)
    result.unparsed = sum(said[line.index] is None for line in lines)
    return result


def _truth(benchmark: OpenBenchmark, row: Mapping[str, Any]) -> str:
    answer = str(row.get("answer")).strip().capitalize()
    if answer not in {"Yes", "No"}:
        raise UserError(f"{benchmark.name}: the answer to question {row['index']} is neither yes nor no")
    return answer


def _ask(config: JudgeConfig, lines: list[Line], said: Mapping[Index, str | None]) -> dict[Index, str | None]:
    """The judge's `Yes`, `No` or `Unknown` for each reply that could not be read; None where it gave no verdict."""
    asked = {
        line.index: protocols.yes_no(line.row["question"], line.reply)
        for line in lines
        if said[line.index] is None and line.reply.strip()
    }
    if not asked:
        return {}
    replies = Judge(config).ask_all(asked, lambda reply: protocols.read_yes_no(reply) is not None)
    return {index: None if reply is None else protocols.read_yes_no(reply) for index, reply in replies.items()}


def _mme(
    benchmark: OpenBenchmark,
    lines: list[Line],
    said: Mapping[Index, str | None],
    per_sample: dict[Index, float],
    workdir: Workdir,
) -> Result:
    """Perception + reasoning, 0 to 2800: by category, the accuracy and the share of pictures with all answers right.

    The kit fails on a picture with one question of its two, and so with most limits; here the pair then counts over
    the questions asked. With whole pairs the two agree, which is checked. Categories that nobody asked about add 0.
    """
    pictures: dict[tuple[str, str], list[Index]] = {}
    for line in lines:
        pictures.setdefault((line.row["category"], line.row["image_path"]), []).append(line.index)
    pair = {index: float(all(per_sample[i] for i in own)) for own in pictures.values() for index in own}
    contributions = {index: per_sample[index] + pair[index] for index in per_sample}
    strata = {line.index: str(line.row["category"]) for line in lines}
    by_group = _totals(contributions, strata)
    _hold_against_mme_rating(benchmark, lines, said, pictures, contributions, strata, workdir)
    return Result(per_sample, by_group, contributions=contributions, strata=strata, scale=100.0)


def _totals(contributions: Mapping[Index, float], strata: Mapping[Index, str]) -> dict[str, float]:
    members: dict[str, list[float]] = {}
    for index, value in contributions.items():
        members.setdefault(strata[index], []).append(value)
    scores = {category: 100 * sum(values) / len(values) for category, values in members.items()}
    totals = {
        "perception": sum(scores.get(category, 0.0) for category in MME_PERCEPTION),
        "reasoning": sum(scores.get(category, 0.0) for category in MME_REASONING),
    }
    return totals | scores


def _hold_against_mme_rating(
    benchmark: OpenBenchmark,
    lines: list[Line],
    said: Mapping[Index, str | None],
    pictures: Mapping[tuple[str, str], list[Index]],
    contributions: Mapping[Index, float],
    strata: Mapping[Index, str],
    workdir: Workdir,
) -> None:
    paired = {index for own in pictures.values() if len(own) == 2 for index in own}
    if not paired:
        return
    numbers = {key: position for position, key in enumerate(pictures)}
    table = pd.DataFrame(
        [
            {
                "index": position,
                "category": line.row["category"],
                "image_path": f"picture {numbers[line.row['category'], line.row['image_path']]}",
                "answer": line.row["answer"],
                "prediction": said[line.index] or "Unknown",
            }
            for position, line in enumerate(lines)
            if line.index in paired
        ]
    )
    rating = evaluate(benchmark, table, workdir, model="exact_matching").iloc[0]
    own = _totals({index: contributions[index] for index in contributions if index in paired}, strata)
    for name in ("perception", "reasoning"):
        agree(benchmark, float(rating[name]) / 2800, own[name] / 2800, 1e-9)


def _rated(
    benchmark: OpenBenchmark,
    lines: list[Line],
    said: Mapping[Index, str | None],
    per_sample: dict[Index, float],
    workdir: Workdir,
) -> Result:
    """The kit's rating. Its main number is the accuracy, or what is no mean over the samples (POPE: an F1)."""
    table = pd.DataFrame([{key: value for key, value in line.row.items() if key != "image"} for line in lines])
    table["prediction"] = [said[line.index] or "Unknown" for line in lines]
    name, headline, metrics = primary_metric(benchmark, evaluate(benchmark, table, workdir, model="exact_matching"))
    part = name.rsplit("|", 1)[-1]
    accuracy = 100 * sum(per_sample.values()) / len(per_sample)
    if part in {"aAcc", "acc"} or (part == "Overall" and "POPE" not in benchmark.entry.kit_dataset):
        agree(benchmark, headline / 100, accuracy / 100, 1e-9)
        return Result(per_sample, metrics)
    what = "F1" if part in {"Overall", "f1_score"} else part
    note = f"the headline is VLMEvalKit's {name} ({what}), not the mean of right answers, which is {accuracy:.1f}"
    return Result(per_sample, metrics, note, metrics={"accuracy": accuracy}, kits=headline)
