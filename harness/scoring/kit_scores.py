"""Scores of data sets that are none of the paper's, by the kit's own evaluation, which gets no judge."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from harness.benchmarks.choices import parse_choice
from harness.benchmarks.official import exact_match, grouped
from harness.benchmarks.opened import OpenBenchmark
from harness.scoring.evaluation import EXACT, AnyJudge, Line, Result, Workdir, agree, evaluate, primary_metric
from harness.scoring.judge import JudgeConfig
from harness.scoring.letter_scores import lettered
from harness.vlmevalkit import evaluation, kit, kit_modules, patched
from model_wrappers.errors import UserError


class _JudgeWanted(UserError):
    """The kit's evaluation would build a judge."""


def exact_scores(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    """Exact match, for open questions of one's own, which the kit cannot score."""
    _no_judge(benchmark, judge)
    _need_answers(benchmark, lines)
    per_sample = {line.index: float(exact_match(line.reply, [str(line.row["answer"])])) for line in lines}
    groups = {line.index: [str(line.row["category"])] for line in lines if not pd.isna(line.row.get("category"))}
    by_group = grouped(per_sample, groups, 100.0)
    return Result(per_sample, {name: mean for name, mean in by_group.items() if name != "overall"}, EXACT, scored=EXACT)


def vqa_scores(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    """The string metric that the kit has for the data set: VQA score, ANLS, relaxed accuracy or accuracy.

    The kit compares in a pool of 16 processes that it forks and never ends; here one process does it.
    """
    _no_judge(benchmark, judge)
    _need_answers(benchmark, lines)
    if not lines:
        return Result({}, {})
    columns = [column for column in ("answer", "split", "category") if column in lines[0].row]
    table = pd.DataFrame([{column: line.row[column] for column in columns} for line in lines])
    for column in columns:
        table[column] = table[column].astype(object).where(table[column].notna(), "none").astype(str)
    table["index"], table["prediction"] = range(len(lines)), [line.reply for line in lines]
    compared: list[Any] = []

    def compare(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        compared[:] = [function(item) for item in items]
        return list(compared)

    pool = SimpleNamespace(Pool=lambda *_: SimpleNamespace(map=compare))
    with patched(kit("vlmeval.dataset.image_vqa"), "mp", pool):
        found = evaluate(benchmark, table, workdir)
    hits = kit("vlmeval.dataset.utils.vqa_eval").hit_calculate(compared, benchmark.dataset.dataset_name)
    per_sample = {line.index: float(hit) for line, hit in zip(lines, hits, strict=True)}
    groups = {str(name): float(value) for name, value in found.iloc[0].items()}
    agree(benchmark, groups.pop("Overall") / 100, sum(per_sample.values()) / len(lines), 1e-9)
    return Result(per_sample, {name: value for name, value in groups.items() if name != "none"})


def kit_scores(benchmark: OpenBenchmark, lines: list[Line], judge: AnyJudge, workdir: Workdir) -> Result:
    """The main number of a class with an evaluation of its own. It is no mean over samples that we could know.

    The samples' scores are the letters that are right, or exact match. UserError when the evaluation wants a judge.
    """
    _no_judge(benchmark, judge)
    if not lines:
        return Result({}, {})
    per_sample = {line.index: _hit(line) for line in lines}
    try:
        found = _evaluate_as_it_is(benchmark, lines, workdir)
        name, headline, metrics = primary_metric(benchmark, found)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise UserError(
            f"{benchmark.name} cannot be scored: VLMEvalKit's evaluation fails ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); answers are kept"
        ) from error
    note = f"the headline is VLMEvalKit's {name}, not a mean over the samples"
    return Result(per_sample, metrics, note, kits=headline)


def refuse_if_judged(benchmark: OpenBenchmark) -> None:
    """Raise UserError, before hours of answering, when the evaluation wants a judge for a few meaningless replies."""
    rows = benchmark.rows.iloc[:4].to_dict("records")
    lines = [Line(index, row, "?") for index, row in zip(benchmark.indices, rows, strict=False)]  # type: ignore[arg-type]
    try:
        _evaluate_as_it_is(benchmark, lines, None)
    except _JudgeWanted:
        raise
    except Exception:  # noqa: BLE001, S110 - what else may be wrong with four rows says nothing about all of them
        return


def _hit(line: Line) -> float:
    answer = line.row.get("answer")
    if isinstance(answer, str) and len(answer) == 1 and not pd.isna(line.row.get(answer)):
        return float(parse_choice(line.reply, lettered("", line.row)[0]) == answer)
    return float(exact_match(line.reply, [str(answer)]))


def _evaluate_as_it_is(benchmark: OpenBenchmark, lines: list[Line], workdir: Workdir) -> Any:
    """The kit's `evaluate` on a spreadsheet such as its own runner writes, but the replies arrive as they are."""
    position = {index: i for i, index in enumerate(benchmark.indices)}
    table = benchmark.rows.iloc[[position[line.index] for line in lines]].drop(columns=["image"], errors="ignore")
    replies = [line.reply for line in lines]
    table = table.assign(prediction=replies)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="retain-", dir=workdir))
        path = str(Path(folder) / "answers.xlsx")
        table.to_excel(path, index=False, engine="xlsxwriter")
        stack.enter_context(evaluation(type(benchmark.dataset), PRED_FORMAT="xlsx"))
        load = kit("vlmeval.smp").load

        def load_whole(file: str, *rest: Any) -> Any:
            loaded = load(file, *rest)
            return loaded.assign(prediction=replies) if file == path else loaded

        def refuse(*_: Any, **__: Any) -> Any:
            raise _JudgeWanted(f"{benchmark.name} is scored by a judge in VLMEvalKit, and Retain has none for it")

        for module in kit_modules(type(benchmark.dataset)):
            for name, value in (("load", load_whole), ("build_judge", refuse)):
                if hasattr(module, name):
                    stack.enter_context(patched(module, name, value))
        return benchmark.dataset.evaluate(path, model="exact_matching")


def _no_judge(benchmark: OpenBenchmark, judge: AnyJudge) -> None:
    if isinstance(judge, JudgeConfig):
        raise UserError(f"{benchmark.name} has no judge in Retain; score it with `official` or `exact`")


def _need_answers(benchmark: OpenBenchmark, lines: list[Line]) -> None:
    for line in lines:
        if "answer" not in line.row or pd.isna(line.row["answer"]):
            raise UserError(f"{benchmark.name}: question {line.index} has no answer, so nothing can be scored")
