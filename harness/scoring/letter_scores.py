"""Accuracy of letters on image benchmarks: MMStar, SEEDBench_IMG, and whatever the kit's ImageMCQDataset counts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.benchmarks.opened import OpenBenchmark
from harness.benchmarks.tsv import LETTERS
from harness.scoring.evaluation import Index, Line, Result, Workdir, agree, evaluate
from model_wrappers.errors import UserError

Options = Mapping[Index, tuple[list[str], str]]
_ROTATION = 1_000_000
# The split that speaks for a data set with several, as the kit's status report prefers them.
_SPLITS = ("test", "validation", "val", "dev")


def lettered(name: str, row: Mapping[str, Any]) -> tuple[list[str], str]:
    """The options of a row with columns A, B, ... and the letter of the right one."""
    present = [letter for letter in LETTERS if letter in row and not pd.isna(row[letter])]
    right = row.get("answer")
    if right not in present:
        raise UserError(f"{name}: question {row['index']} has no answer among its options, so nothing can be scored")
    return [str(row[letter]) if letter in present else "" for letter in LETTERS[: ord(present[-1]) - 64]], right


def count_letters(
    benchmark: OpenBenchmark,
    lines: list[Line],
    letters: Mapping[Index, str | None],
    options: Options,
    workdir: Workdir,
    note: str,
) -> Result:
    """Accuracy, over all and by category, held against the kit's.

    `circular`: a question is there once for each rotation of its options and counts when all of them are right. A row's
    contribution then is its question's 0 or 1, weighted so that the mean over rows is the mean over questions.
    Where a data set has several splits, the headline is that of one of them, and `note` names it.
    """
    per_sample = {line.index: float(letters[line.index] == options[line.index][1]) for line in lines}
    unparsed = sum(letters[line.index] is None for line in lines)
    circular = benchmark.entry.scored_as == "circular"
    members: dict[Any, list[Index]] = {}
    for line in lines:
        members.setdefault(_question(line.row) if circular else line.index, []).append(line.index)
    split = _leading_split(lines)
    splits = {line.index: _value(line.row, "split") for line in lines}
    counted = [own for own in members.values() if split is None or splits[own[0]] == split]
    contributions = dict.fromkeys(per_sample, 0.0)
    for own in counted:
        for index in own:
            right = float(all(per_sample[i] for i in own))
            contributions[index] = right * len(lines) / (len(counted) * len(own))
    headline = sum(contributions.values()) / len(lines)
    by_group = _held_against_the_kit(
        benchmark, lines, letters, options, workdir, list(members.values()), split, headline
    )
    if split is not None:
        note = f"{note}; split {split}" if note else f"split {split}"
    return Result(per_sample, by_group, note, unparsed, contributions=contributions)


def _value(row: Mapping[str, Any], column: str) -> str | None:
    return str(row[column]) if column in row and not pd.isna(row[column]) else None


def _question(row: Mapping[str, Any]) -> int:
    return int(row["g_index"]) if "g_index" in row else int(row["index"]) % _ROTATION


def _leading_split(lines: list[Line]) -> str | None:
    """The split that the headline is of; None where there is one split or none."""
    found = sorted({name for line in lines if (name := _value(line.row, "split"))})
    if len(found) < 2:
        return None
    return next((name for name in _SPLITS if name in found), found[0])


def _held_against_the_kit(
    benchmark: OpenBenchmark,
    lines: list[Line],
    letters: Mapping[Index, str | None],
    options: Options,
    workdir: Workdir,
    questions: list[list[Index]],
    split: str | None,
    headline: float,
) -> dict[str, float]:
    """Accuracy by category (percent), from the kit; ScoringError if its overall accuracy is not `headline` (0 to 1).

    The kit gets rows numbered anew, bare letters and numbered categories: names such as `None` or `2024` would not come
    back from its files as they were.
    """
    place = {line.index: position for position, line in enumerate(lines)}
    first = {index: place[own[0]] for own in questions for index in own}
    names: dict[str, str] = {}
    rows = []
    for position, line in enumerate(lines):
        given, right = options[line.index]
        row: dict[str, Any] = {"index": position, "question": "?", "answer": right}
        row |= {LETTERS[i]: f"option {i}" for i in range(len(given))}
        row["prediction"] = letters[line.index] or "Z"
        if benchmark.entry.scored_as == "circular":
            row["g_index"] = first[line.index]
        for column in ("category", "l2-category"):
            if column in line.row:
                row[column] = f"{column} {_value(line.row, column)}"
                names[row[column]] = str(_value(line.row, column))
        row["split"] = f"split {_value(line.row, 'split')}" if split is not None else "all"
        rows.append(row)
    table = pd.DataFrame(rows)
    shadow = copy.copy(benchmark.dataset)
    shadow.data = table.drop(columns=["prediction"])
    found = evaluate(benchmark, table, workdir, dataset=shadow, model="exact_matching")
    leading = found[found["split"] == ("all" if split is None else f"split {split}")].iloc[0]
    agree(benchmark, float(leading["Overall"]), headline, 1e-9)
    return {names[name]: 100 * float(value) for name, value in leading.items() if name in names and not pd.isna(value)}
