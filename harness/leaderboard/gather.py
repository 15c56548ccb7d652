"""From the store's tables to a leaderboard: rows of several experiments that are about the same thing become one entry.

Two experiments go together where every cell that both have (model, method, keep, benchmark) is the same cell, settings
and all. So Tables 1 to 4 make one leaderboard; Table 5 asks the same benchmarks about larger images and makes another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from harness import flops
from harness.benchmarks import benchmark, benchmark_names
from harness.leaderboard.checkpoints import parameters
from harness.leaderboard.entry import SCOPES, Benchmark, Entry, Leaderboard, Preservation, Scope, Score
from harness.leaderboard.floors import marked
from harness.leaderboard.notes import notes
from harness.leaderboard.ranks import ranked
from harness.matching import Match
from harness.plan import Data, Plan, PlannedCell
from harness.results import Results
from harness.statistics import Cell, preservation
from harness.store import Answer, Store, digest
from harness.tables.layout import DECIMALS, RowResult
from model_wrappers import registry
from model_wrappers.errors import UserError


@dataclass
class _Line:
    """One entry while it is being put together: what experiments say of one model, method and keep."""

    name: str
    model: str
    row: RowResult
    fields: dict[str, Any]
    scores: dict[str, Cell] = field(default_factory=dict)
    cells: dict[str, list[PlannedCell]] = field(default_factory=dict)


class Gathering:
    """Takes in tables one by one, and makes the leaderboard of all."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lines: dict[Any, _Line] = {}
        self._known: dict[Any, str] = {}
        self._experiments: list[str] = []
        self._match: Match | None = None
        self._profile, self._micro = "", False
        self._benchmarks: dict[str, Benchmark] = {}
        self._left_out: dict[str, None] = {}
        self._ways: dict[str, str] = {}

    def conflict(self, plan: Plan, results: Results) -> str | None:
        """Why a table cannot join those taken in, in one sentence; None where it can."""
        if self._experiments and plan.experiment.match != self._match:
            unequal, equal = (self._experiments[0], plan.experiment.name)[:: 1 if plan.experiment.match else -1]
            return f"{equal} matches budgets and {unequal} does not: make a leaderboard of each"
        for cell in plan.cells:
            if self._known.get(_identity(cell), cell_id := digest(cell.settings)) != cell_id:
                return (
                    f"{plan.experiment.name} asks {cell.model} on {cell.benchmark} under other settings than "
                    f"{', '.join(self._experiments)}: make a leaderboard of its own of it"
                )
        for name, way in _ways(results):
            if (known := self._ways.get(name, way)) != way:
                others = ", ".join(self._experiments)
                return (
                    f"{plan.experiment.name} scores {name} by {way or 'its own metric'}, {others} by "
                    f"{known or 'its own metric'}: make a leaderboard of its own of it"
                )
        return None

    def add(self, plan: Plan, results: Results, data: Data) -> None:
        """Takes in a table. Raises UserError where it cannot join the others."""
        if said := self.conflict(plan, results):
            raise UserError(said)
        self._ways |= dict(_ways(results))
        experiment = plan.experiment
        self._experiments.append(experiment.name)
        self._match = experiment.match
        self._left_out |= dict.fromkeys(plan.left_out())
        self._profile, self._micro = experiment.profile, self._micro or experiment.data == "micro"
        self._known |= {_identity(cell): digest(cell.settings) for cell in plan.cells}
        for name in experiment.benchmarks:
            modality = benchmark(name, data.folder).modality
            self._benchmarks[name] = Benchmark(name=name, modality=modality, decimals=DECIMALS.get(name, 1))
        cells = {
            _row_key(row.method, row.fields, keep, found): (model, found)
            for model, row, keep, found in plan.rows()
            if found
        }
        for row in (row for row in results.table.rows if row.cells):
            seeds = row.seeds or (row,)
            keys = [(row.model, seed.method, digest(dict(seed.fields)), seed.retention) for seed in seeds]
            if all(key in cells for key in keys):  # a row that no keep brings to its budget has no cells
                self._take(row, [cells[key] for key in keys])

    def _take(self, row: RowResult, planned: list[tuple[str, list[PlannedCell]]]) -> None:
        model, first = planned[0]
        settings = dict(first[0].settings["method"]["fields"])
        if row.seeds:
            settings = {**{name: value for name, value in settings.items() if name != "seed"}, "seeds": len(row.seeds)}
        key = (model, row.method, digest(settings), row.retention)
        line = self._lines.setdefault(key, _Line(model, row.model, row, settings))
        for name, cell in row.cells.items():
            known = line.scores.setdefault(name, cell)
            if (known.score, known.note) != (cell.score, cell.note):
                raise UserError(
                    f"{row.model} {row.method}@{row.retention:g} on {name} is scored in two ways by "
                    f"{', '.join(self._experiments)}: make a leaderboard of each"
                )
        for _, found in planned:
            for each in found:
                ids = line.cells.setdefault(each.benchmark, [])
                if digest(each.settings) not in [digest(other.settings) for other in ids]:
                    ids.append(each)

    def leaderboard(self) -> Leaderboard:
        """Entries ranked and in order. Raises UserError where a checkpoint's files cannot be read."""
        order = {name: place for place, name in enumerate(benchmark_names())}
        columns = sorted(self._benchmarks.values(), key=lambda b: (b.modality, order.get(b.name, len(order))))
        lines = list(self._lines.values())
        of_model = {name: _Model.of(name) for name in dict.fromkeys(line.name for line in lines)}
        made = [
            _entry(line, of_model[line.name], self.store, kept)
            for line, kept in zip(lines, _preservations(lines, columns), strict=True)
        ]
        title = f"Leaderboard{', micro edition' if self._micro else ''}: {', '.join(self._experiments)}"
        scored = {name: cell.note for line in lines for name, cell in line.scores.items() if cell.note}
        return Leaderboard(
            title=title,
            profile=self._profile,
            experiments=self._experiments,
            benchmarks=columns,
            entries=ranked(marked(made, columns)),
            notes=notes(made, scored, list(self._left_out), micro=self._micro),
        )


@dataclass(frozen=True)
class _Model:
    """What is known of a checkpoint; no parameters where its files are not on this machine."""

    parameters: int | None
    shape: flops.Shape

    @classmethod
    def of(cls, name: str) -> _Model:
        from harness.models import checkpoint_folder, model_info

        folder = checkpoint_folder(model_info(name))
        if folder is None:
            return cls(None, flops.shape_of(name))
        return cls(parameters(folder), flops.read(folder))


def _ways(results: Results) -> list[tuple[str, str]]:
    """By benchmark how it was scored, of every score that there is."""
    cells = [each for row in results.table.rows for each in row.cells.items()]
    return [(name, cell.scored) for name, cell in cells if cell.complete]


def _identity(cell: PlannedCell) -> Any:
    method = cell.settings["method"]
    return cell.model, method["name"], digest(method["fields"]), cell.keep, cell.benchmark


def _row_key(method: str, fields: Mapping[str, Any], keep: float, cells: list[PlannedCell]) -> Any:
    return cells[0].settings["model"]["name"], method, digest(dict(fields)), keep


def _preservations(lines: list[_Line], columns: list[Benchmark]) -> list[dict[Scope, Preservation]]:
    """Of each line by scope, over the benchmarks that it has."""
    from harness.statistics.bootstrap import interval, ratios

    base = {line.name: place for place, line in enumerate(lines) if line.row.method == "vanilla"}
    bases = [base.get(line.name) for line in lines]
    known = ratios([line.scores for line in lines], bases)
    found = []
    for place, (line, of_model) in enumerate(zip(lines, bases, strict=True)):
        of_line: dict[Scope, Preservation] = {}
        vanilla = {} if of_model is None else lines[of_model].scores
        for scope in SCOPES:
            names = [each.name for each in columns if each.name in line.scores and scope in (each.modality, "all")]
            parts = [known[place][name] for name in names if name in known[place]]
            sure = len(parts) == len(names) > 0 and of_model != place
            ends = interval(parts) if sure else None
            of_line[scope] = Preservation(
                value=preservation(line.scores, vanilla, names),
                low=ends.low if ends else None,
                high=ends.high if ends else None,
            )
        found.append(of_line)
    return found


def _entry(line: _Line, model: _Model, store: Store, kept: dict[Scope, Preservation]) -> Entry:
    row, planned = line.row, [cell for cells in line.cells.values() for cell in cells]
    answers, dates, failures = [], [], 0
    for cell in planned:
        stored = store.cell(cell.settings)
        given = list(stored.read().values())
        failures += sum(answer.error is not None for answer in given)
        answers += [answer for answer in given if answer.error is None and answer.visual]
        if given:
            dates.append(stored.file.stat().st_mtime)
    return Entry(
        model=line.model,
        method=row.method,
        label=row.label,
        fields=line.fields,
        retention=row.retention,
        parameters=model.parameters,
        **_costs(answers, row, model.shape),
        scores={
            name: Score(
                value=cell.score if cell.complete else None, answered=cell.n, total=cell.total, scored=cell.scored
            )
            for name, cell in line.scores.items()
        },
        preservation=kept,
        samples=sum(cell.total for cell in line.scores.values()),
        failures=failures,
        run=digest(sorted(store.cell(cell.settings).id for cell in planned))[:12],
        date=datetime.fromtimestamp(max(dates), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if dates else None,
        versions=planned[0].settings["versions"],
        cells={name: [store.cell(cell.settings).folder.name for cell in cells] for name, cells in line.cells.items()},
    )


def _costs(answers: Iterable[Answer], row: RowResult, shape: flops.Shape) -> dict[str, Any]:
    """Means over answers of what was kept, held by the layers, and computed."""
    realised, worked, share, held, operations = [], [], [], [], []
    known: dict[Any, float | None] = {}
    made = registry.method(row.method, **row.fields)
    for answer in answers:
        assert answer.visual
        if answer.kept is not None:
            realised.append(answer.kept / answer.visual)
        if answer.kv_visual and answer.by_layer:
            worked.append(fmean(answer.by_layer))
            share.append(worked[-1] / answer.visual)
            held.append(fmean(answer.kv_visual) / answer.visual)
            key = (answer.visual, *answer.by_layer)
            if key not in known:
                known[key] = flops.by_paper(shape, made, answer.visual, answer.by_layer)
            operations.append(known[key])
    counted = [value for value in operations if value is not None]
    return {
        "realised": fmean(realised) if realised else None,
        "equivalent_tokens": fmean(worked) if worked else None,
        "layer_share": fmean(share) if share else None,
        "kv_share": fmean(held) if held else None,
        "tflops": fmean(counted) / 1e12 if counted else None,
    }
