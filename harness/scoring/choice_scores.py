"""Scores of the choice benchmarks: read the letter, let VLMEvalKit count."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from harness.benchmarks.choices import parse_choice
from harness.benchmarks.opened import OpenBenchmark
from harness.scoring import protocols
from harness.scoring.evaluation import AnyJudge, Index, Line, Result, Workdir, agree, evaluate, own_groups
from harness.scoring.judge import Judge, JudgeConfig
from harness.scoring.letter_scores import count_letters, lettered


def _options(benchmark: OpenBenchmark, row: Mapping[str, Any]) -> tuple[list[str], str]:
    """The options of a row and the letter of the right one."""
    name = benchmark.entry.scored_as
    if benchmark.modality == "image":
        return lettered(benchmark.name, row)
    if name == "NExT-QA-MC":
        return [row[f"a{i}"] for i in range(5)], "ABCDE"[int(row["answer"])]
    options = [str(option) for option in ast.literal_eval(row["candidates"])]
    if name == "Video-MME":
        return options, row["answer"]
    # As the kit: where two candidates are the same text, the last one's letter.
    return options, chr(ord("A") + len(options) - 1 - options[::-1].index(row["answer"]))


def choice_scores(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    """Accuracy. With a JudgeConfig, a reply in which no option can be read is put to the judge."""
    options = {line.index: _options(benchmark, line.row) for line in lines}
    letters = {line.index: parse_choice(line.reply, options[line.index][0]) for line in lines}
    unread: set[Index] = set()
    note = ""
    if isinstance(judge, JudgeConfig):
        note = f"options in unclear replies read by {judge.model}"
        verdicts = _ask_options(judge, lines, letters, options)
        unread = {index for index, verdict in verdicts.items() if verdict is None}
        letters |= {index: verdict for index, verdict in verdicts.items() if verdict != "Z"}
    lines = [line for line in lines if line.index not in unread]
    per_sample = {line.index: float(letters[line.index] == options[line.index][1]) for line in lines}
    unparsed = sum(letters[line.index] is None for line in lines)
    if not lines:
        return Result({}, {}, note)
    if benchmark.modality == "image":
        return count_letters(benchmark, lines, letters, options, workdir, note)
    if benchmark.entry.scored_as == "NExT-QA-MC":
        return Result(per_sample, own_groups(benchmark, lines, per_sample), note, unparsed)
    prepare, read = {"Video-MME": (_video_mme, _read_video_mme), "MVBench": (_mvbench, _read_mvbench)}[
        benchmark.entry.scored_as
    ]
    table = pd.DataFrame(
        [
            prepare(position, line.row, letters[line.index] or "Z", *options[line.index])
            for position, line in enumerate(lines)
        ]
    )
    kits, by_group = read(evaluate(benchmark, table, workdir, model="exact_matching"))
    agree(benchmark, kits, sum(per_sample.values()) / len(per_sample), 0.0005 + 1e-9)
    return Result(per_sample, by_group, note, unparsed)


def _ask_options(
    config: JudgeConfig,
    lines: list[Line],
    letters: Mapping[Index, str | None],
    options: Mapping[Index, tuple[list[str], str]],
) -> dict[Index, str | None]:
    """The judge's letter (`Z`: none) for each reply that could not be read; None where it gave no usable verdict."""
    unclear = [line for line in lines if letters[line.index] is None and line.reply.strip()]
    if not unclear:
        return {}
    asker = Judge(config)
    verdicts: dict[Index, str | None] = {}
    for count in sorted({len(options[line.index][0]) for line in unclear}):
        asked = {
            line.index: protocols.option(line.row["question"], options[line.index][0], line.reply)
            for line in unclear
            if len(options[line.index][0]) == count
        }
        read = partial(protocols.read_option, count=count)
        replies = asker.ask_all(asked, lambda reply, read=read: read(reply) is not None)  # type: ignore[misc]
        verdicts |= {index: None if reply is None else read(reply) for index, reply in replies.items()}
    return verdicts


def _video_mme(position: int, row: Mapping[str, Any], letter: str, options: list[str], right: str) -> dict[str, Any]:
    kept = {column: row[column] for column in ("duration", "domain", "sub_category", "task_type")}
    return {"index": position, **kept, "question": "?", "answer": right, "prediction": letter}


def _read_video_mme(metrics: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    groups = {name: metrics[name]["overall"] for name in metrics if name != "overall"}
    for part in ("domain", "sub_category", "task_type"):
        groups |= metrics["overall"][part]
    overall = float(metrics["overall"]["overall"])
    return overall, {name: 100 * float(value) for name, value in groups.items() if value != "nan"}


def _mvbench(position: int, row: Mapping[str, Any], letter: str, options: list[str], right: str) -> dict[str, Any]:
    # Numbered options: a candidate such as `None` or `3` would not come back from a spreadsheet as it was.
    numbered = [f"option {i}" for i in range(len(options))]
    return {
        "index": position,
        "task_type": row["task_type"],
        "question": "?",
        "candidates": str(numbered),
        "answer": numbered[ord(right) - ord("A")],
        "prediction": f"({letter})" if letter != "Z" else letter,
    }


def _read_mvbench(metrics: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    correct, total, _ = metrics["overall"]
    return correct / total, {name: 100 * hit / n for name, (hit, n, _) in metrics.items() if name != "overall"}
