"""`retain run --dry-run`: what the run would do and cost. Writes nothing to the store and loads no weights."""

from __future__ import annotations

from pathlib import Path

from harness import plan as plans
from harness.data.sources import PAPER
from harness.estimate.cells import Cells, of_plan, of_published
from harness.estimate.cost import Line, assumptions, lines
from harness.experiments import Experiment
from harness.plan import Data
from harness.store import Store
from harness.tables.layout import MISSING
from harness.tables.render import pipe_table
from model_wrappers.errors import UserError

COUNTS = ("New", "Answered", "Undefined", "Samples", "Answers")
"""Cells of three kinds, samples of the benchmark, and answers that the new cells lack."""
HEAD = ("Model", "Benchmark", *COUNTS, "Visual tokens", "TFLOPs (exact)", "GPU hours")
JUDGED = ("Judge calls", "USD")


def dry_run(experiment: Experiment, data: Data | None, store: Store) -> str:
    """What is to be printed. Without the data, or with what the run itself would refuse, published counts stand in, and
    it is said.
    """
    cells = _cells(experiment, data, store)
    found = lines(experiment, cells)
    notes = [*cells.notes, *assumptions(experiment, found)]
    return f"**{experiment.title}: dry run**\n\n{_table(found)}\n\n" + "".join(f"- {note}\n" for note in notes)


def _cells(experiment: Experiment, data: Data | None, store: Store) -> Cells:
    if data is None:
        return of_published(experiment, f"{PAPER} has no data; `retain data` gets it, --data names another folder.")
    try:
        plan = plans.make(experiment, data, store, keep=False)
    except UserError as error:
        if experiment.data is not None:  # generated data have no published counts
            raise
        return of_published(experiment, f"the run itself would stop at this: {error}")
    return of_plan(plan, data, store)


def _table(found: list[Line]) -> str:
    judged = any(line.calls for line in found)
    body = [_cells_of(line, judged) for line in found]
    body.append(_cells_of(_sum(found), judged, total=True))
    head = [*HEAD, *(JUDGED if judged else ())]
    return pipe_table(head, body, [False, False, *[True] * (len(head) - 2)])


def _sum(found: list[Line]) -> Line:
    dollars = [line.dollars for line in found]
    return Line(
        "All",
        "",
        sum(line.new for line in found),
        sum(line.answered for line in found),
        sum(line.undefined for line in found),
        sum({line.benchmark: line.samples for line in found}.values()),
        sum(line.answers for line in found),
        0,
        sum(line.flops for line in found),
        sum(line.seconds for line in found),
        sum(line.calls for line in found),
        None if None in dollars else sum(each for each in dollars if each is not None),
    )


def _cells_of(line: Line, judged: bool, total: bool = False) -> list[str]:
    counts = [line.new, line.answered, line.undefined, line.samples, line.answers]
    shown = [Path(line.model).name, line.benchmark, *map(str, counts), MISSING if total else str(line.visual)]
    shown += [f"{line.flops / 1e12:.4g}", f"{line.seconds / 3600:.2g}"]
    if judged:
        shown += [str(line.calls), MISSING if line.dollars is None else f"{line.dollars:.2f}"]
    return shown
