"""The cells of a run that has not begun: from its plan and the store, or, without the data, from published counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data.sources import SOURCES
from harness.estimate.sizes import Sizes, sizes_of
from harness.experiments import Experiment
from harness.judging.estimate import Estimate, estimate, estimate_without_data
from harness.plan import Data, Plan
from harness.store import Store, missing


@dataclass(frozen=True)
class Cell:
    """One cell: its method, and how many of its samples lack an answer."""

    model: str
    method: Any
    keep: float
    benchmark: str
    samples: int
    lacking: int


@dataclass(frozen=True)
class Cells:
    """All cells. `undefined`: those that there are not, by model and benchmark. `notes`: what was assumed of them.
    `judging`: what the judge of a benchmark will take, of those that have one. `sizes`: by benchmark, of its samples,
    where its data are here. `folder`: of the data.
    """

    cells: list[Cell]
    undefined: dict[tuple[str, str], int]
    notes: list[str]
    judging: dict[str, Estimate] = field(default_factory=dict)
    sizes: dict[str, Sizes] = field(default_factory=dict)
    folder: Path | None = None


def of_plan(plan: Plan, data: Data, store: Store) -> Cells:
    """The cells of a plan, with what the store holds of each; nothing is written there."""
    from model_wrappers.registry import method

    cells = []
    for cell in plan.cells:
        row, indices = plan.experiment.rows[cell.row], plan.samples[cell.benchmark]
        lacking = len(missing(store.cell(cell.settings).read(), indices))
        made = method(row.method, **row.fields)
        cells.append(Cell(cell.model, made, cell.keep, cell.benchmark, len(indices), lacking))
    undefined: dict[tuple[str, str], int] = {}
    for each in plan.undefined:
        key = (each.model, each.benchmark)
        undefined[key] = undefined.get(key, 0) + len(plan.experiment.rows[each.row].keep)
    found = {name: sizes_of(data.open(name)) for name in plan.experiment.benchmarks}
    sizes = {name: each for name, each in found.items() if each is not None}
    judging = {each.benchmark: each for each in estimate(plan, data)}
    return Cells(cells, undefined, [f"{sentence}." for sentence in plan.left_out()], judging, sizes, data.folder)


def of_published(experiment: Experiment, why: str) -> Cells:
    """The cells of an experiment whose data or compressors are not there, each with its benchmark's published samples
    and none answered. `why` is told.
    """
    from harness.benchmarks import benchmark
    from harness.matching import keep_for
    from harness.models import model_family
    from model_wrappers.registry import method

    cells: list[Cell] = []
    undefined: dict[tuple[str, str], int] = {}
    unknown = [name for name in experiment.benchmarks if name not in SOURCES]
    for model in experiment.models:
        for row in experiment.rows:
            made = method(row.method, **row.fields)
            for retention in row.keep:
                if (keep := keep_for(experiment.match, made, model, retention)) is None:
                    continue
                for name in (name for name in experiment.benchmarks if name in SOURCES):
                    if made.undefined(model_family(model), benchmark(name).modality):
                        undefined[model, name] = undefined.get((model, name), 0) + 1
                        continue
                    count = _samples(experiment, name)
                    cells.append(Cell(model, made, keep, name, count, count))
    notes = [f"Samples are the published numbers, and nothing counts as answered: {why}"]
    if unknown:
        notes.append(f"Left out, since nobody told how many samples they have: {', '.join(unknown)}.")
    judging = {}
    for name in (name for name in experiment.benchmarks if name in SOURCES):
        own = sum(cell.benchmark == name for cell in cells)
        asked = estimate_without_data(experiment, name, own, _samples(experiment, name))
        if asked is not None:
            judging[name] = asked
    return Cells(cells, undefined, notes, judging)


def _samples(experiment: Experiment, name: str) -> int:
    """As many as are published, or as are asked for."""
    return min(SOURCES[name].questions, experiment.max_samples or SOURCES[name].questions)
