"""What a table holds, in the paper's layout: Model | Method | Retention | benchmarks | Avg.(%).

A table is built once from rows of cells and rendered by `harness.tables.render` as Markdown, CSV, xlsx or LaTeX. Cells
with failed samples say "incomplete (n of N)", and a row that holds one has no average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from harness.statistics import Cell, preservation
from harness.statistics.significance import Measured, measure
from harness.tables.footnotes import footnotes
from harness.tables.hard import hard_data_columns
from harness.tables.rows import (
    BELOW,
    FLOORS,
    LOSS,
    METHOD_LABELS,
    MISSING,
    NOISE,
    Average,
    Column,
    Group,
    RowResult,
    Table,
    loses_time,
    method_label,
    ratio,
)
from harness.tables.scored import mark, own_mark, scored_columns, ways_of

__all__ = ["METHOD_LABELS", "MISSING", "Average", "Column", "Group", "RowResult", "Table", "build", "columns"]
__all__ += ["data_columns", "method_label", "ratio", "show_cell", "significance"]

# Digits after the point, as the paper prints them.
DECIMALS = {"MMBench-Video": 2}

# Columns of what a row costs: key, header, the part of `Costs`, and its factor.
COSTS = (
    ("tflops", "TFLOPs (paper)", "tflops", 1.0),
    ("prefill_ms", "Prefill (ms)", "prefill_seconds", 1e3),
    ("kv_mib", "KV (MiB)", "kv_bytes", 2.0**-20),
)

# Rows that set the scale and compete with nobody: vanilla cuts nothing, the bounds know where the answer is.
APART = ("vanilla", "oracle", "anti-oracle")


def build(
    rows: Iterable[RowResult],
    benchmarks: Sequence[str] = (),
    *,
    title: str = "",
    micro: bool = False,
    notes: Sequence[str] = (),
    groups: Sequence[Group] | None = None,
    measured: Measured | None = None,
) -> Table:
    """Complete rows with labels and averages, and the table with the footnotes that its numbers need.

    rows: in the order to be shown; the row with method "vanilla" is the base of its model's averages.
    benchmarks: the columns, in order, with one average over all of them; `groups` where a table has several averages.
    title: "micro" is added when `micro` is set and the title does not say so.
    notes: footnotes of the caller (judge, positions), put after those made here.
    measured: what `significance` gave for these rows and groups before; None: measured here.
    """
    rows = list(rows)
    layout = tuple(groups) if groups is not None else (Group(tuple(benchmarks)),)
    measured = measured or significance(rows, layout)
    vanilla = {row.model: row.cells for row in rows if row.method == "vanilla"}
    done = []
    for place, row in enumerate(rows):
        base = vanilla.get(row.model, {})
        known = zip(
            layout, measured.intervals[place], measured.noise[place], measured.matter[place].groups, strict=True
        )
        averages = tuple(
            replace(_average(row, base, group), interval=interval, noise=noise, hard=hard)
            for group, interval, noise, hard in known
        )
        seeds = []
        for seed in row.seeds:
            own = tuple(_average(seed, base, group) for group in layout)
            seeds.append(replace(seed, label=_label(seed, row.seeds), averages=own))
        matter = measured.matter[place].benchmarks
        done.append(replace(row, label=_label(row, rows), averages=averages, hard=matter, seeds=tuple(seeds)))
    done = [replace(row, averages=_below(row, done)) for row in done]
    if micro and "micro" not in title.lower():
        title = f"{title} (micro)".strip()
    table = Table(title, layout, tuple(done), (), micro, measured.pairs)
    return replace(table, notes=(*footnotes(table), *notes))


def significance(rows: Sequence[RowResult], groups: Sequence[Group]) -> Measured:
    """How sure each row's averages are, and which rows differ: rows of one model at one retention compete."""
    vanilla = {row.model: place for place, row in enumerate(rows) if row.method == "vanilla"}
    smaller = {(row.model, row.retention): place for place, row in enumerate(rows) if row.method == "downsample"}
    return measure(
        [row.cells for row in rows],
        [vanilla.get(row.model) for row in rows],
        [None if row.method in APART else (row.model, row.retention) for row in rows],
        [group.benchmarks for group in groups],
        [None if row.method == "downsample" else smaller.get((row.model, row.retention)) for row in rows],
    )


def columns(table: Table) -> list[Column]:
    """The columns of a table for readers, left to right."""
    found = _naming_columns()
    for position, group in enumerate(table.groups):
        found += [_score_column(table, name) for name in group.benchmarks]
        found.append(_average_column(position, group))
        if any(row.averages[position].asked for row in table.rows):
            found.append(_count_column(position, group))
    return found + _share_columns(table)


def data_columns(table: Table) -> list[Column]:
    """The columns of a table for machines: what an average's column tells a reader has columns of its own."""
    found = _naming_columns()
    for position, group in enumerate(table.groups):
        found += [_score_column(table, name) for name in group.benchmarks]
        found.append(_average_column(position, group))
        found += _data_columns(table, position, group)
    return found + hard_data_columns(table) + _share_columns(table) + scored_columns(table)


def show_cell(benchmark: str, cell: Cell | None) -> str:
    """A score with the paper's digits, "incomplete (n of N)" where samples failed, "-" where nothing was run."""
    if cell is None:
        return MISSING
    if not cell.complete or cell.score is None:
        return f"incomplete ({cell.n} of {cell.total})"
    return f"{cell.score:.{DECIMALS.get(benchmark, 1)}f}"


def _score_column(table: Table, benchmark: str) -> Column:
    ways = ways_of(table, benchmark)

    def raw(row: RowResult) -> str | float | None:
        cell = row.cells.get(benchmark)
        if cell is None:
            return None
        return cell.score if cell.complete else show_cell(benchmark, cell)

    def show(row: RowResult) -> str:
        cell = row.cells.get(benchmark)
        return show_cell(benchmark, cell) + (own_mark(cell, ways) if cell else "")

    return Column(benchmark, benchmark + mark(ways), raw, show, f"0.{'0' * DECIMALS.get(benchmark, 1)}")


def _average(row: RowResult, base: Mapping[str, Cell], group: Group) -> Average:
    cells = [row.cells[name] for name in group.benchmarks if name in row.cells]
    n, asked = sum(cell.n for cell in cells), sum(cell.total for cell in cells)
    return Average(preservation(row.cells, base, group.benchmarks), n=n, asked=asked)


def _below(row: RowResult, rows: Sequence[RowResult]) -> tuple[Average, ...]:
    """The averages of a row, each with those of FLOORS that are above it; several rows of one as their mean."""
    if row.method in APART:
        return row.averages
    peers = [other for other in rows if (other.model, other.retention) == (row.model, row.retention)]
    found = []
    for position, average in enumerate(row.averages):
        below = []
        for floor in FLOORS if average.value is not None else ():
            given = [other.averages[position].value for other in peers if other.method == floor != row.method]
            known = [value for value in given if value is not None]
            if known and average.value is not None and average.value < fmean(known):
                below.append(floor)
        found.append(replace(average, below=tuple(below)))
    return tuple(found)


def _naming_columns() -> list[Column]:
    return [
        Column("model", "Model", lambda row: row.model, lambda row: row.model, numeric=False),
        Column("method", "Method", lambda row: row.method, lambda row: row.label, numeric=False),
        Column("retention", "Retention", lambda row: row.retention, lambda row: ratio(row.retention), "0.##%"),
    ]


def _average_column(position: int, group: Group) -> Column:
    def show(row: RowResult) -> str:
        average = row.averages[position]
        if average.value is None:
            return MISSING
        ends = average.interval
        inside = f"[{ends.low:.1f}, {ends.high:.1f}]" if ends else ""
        below = BELOW + "".join(FLOORS[name] for name in average.below) if average.below else ""
        marks = [average.mark, NOISE if average.noise else "", below]
        return " ".join(filter(None, [f"{average.value:.1f}", inside, *marks]))

    return Column(group.key, group.header, lambda row: row.averages[position].value, show, "0.0")


def _count_column(position: int, group: Group) -> Column:
    def show(row: RowResult) -> str:
        average = row.averages[position]
        if not average.asked:
            return MISSING
        return f"{average.n}" if average.n == average.asked else f"{average.n}/{average.asked}"

    return Column(group.key_of("n"), "n", lambda row: row.averages[position].n, show, "0")


def _data_columns(table: Table, position: int, group: Group) -> list[Column]:
    """Ends of the interval, noise (1 or 0), samples answered and asked: those that any row knows."""

    def of(what: str, get: Callable[[Average], float | None], number_format: str = "0") -> Column:
        def raw(row: RowResult) -> float | None:
            return get(row.averages[position])

        def show(row: RowResult) -> str:
            return MISSING if raw(row) is None else f"{raw(row):g}"

        return Column(group.key_of(what), f"{group.header} {what}", raw, show, number_format)

    found = [
        of("lo", lambda average: average.interval.low if average.interval else None, "0.0"),
        of("hi", lambda average: average.interval.high if average.interval else None, "0.0"),
        of("noise", lambda average: None if average.noise is None else int(average.noise)),
        *(of(f"below_{floor}", partial(_is_below, floor=floor)) for floor in FLOORS),
        of("n", lambda average: average.n if average.asked else None),
        of("asked", lambda average: average.asked or None),
    ]
    return [column for column in found if any(column.raw(row) is not None for row in table.rows)]


def _is_below(average: Average, *, floor: str) -> int | None:
    return 1 if floor in average.below else None


def _share_columns(table: Table) -> list[Column]:
    found = []
    if any(row.layer_mean is not None for row in table.rows):
        found.append(_share_column("layer_mean", "Layers (%)", lambda row: row.layer_mean))
    if any(row.equivalent_tokens is not None for row in table.rows):
        found.append(_equivalent_column())
    if table.micro:
        found.append(_share_column("evidence_kept", "Evidence (%)", lambda row: row.evidence_kept))
    if any(row.costs is not None for row in table.rows):
        found += [_cost_column(table, *column) for column in COSTS]
    return found


def _equivalent_column() -> Column:
    def show(row: RowResult) -> str:
        return MISSING if row.equivalent_tokens is None else f"{row.equivalent_tokens:.1f}"

    return Column("equivalent_tokens", "Equivalent tokens", lambda row: row.equivalent_tokens, show, "0.0")


def _cost_column(table: Table, key: str, header: str, part: str, scale: float) -> Column:
    def raw(row: RowResult) -> float | None:
        value = getattr(row.costs, part, None)
        return None if value is None else scale * value

    def show(row: RowResult) -> str:
        value = raw(row)
        if value is None:
            return MISSING
        lost = part == "prefill_seconds" and loses_time(row, table.rows)
        return f"{value:.3g} {LOSS}" if lost else f"{value:.3g}"

    return Column(key, header, raw, show)


def _share_column(key: str, header: str, get: Callable[[RowResult], float | None]) -> Column:
    def show(row: RowResult) -> str:
        share = get(row)
        return MISSING if share is None else f"{100 * share:.1f}"

    return Column(key, header, get, show, "0.0%")


def _label(row: RowResult, rows: Sequence[RowResult]) -> str:
    label = row.label or method_label(row.method)
    siblings = [other.fields for other in rows if (other.model, other.method) == (row.model, row.method)]
    telling = [name for name, value in row.fields.items() if any(other.get(name) != value for other in siblings)]
    said = [f"{name}={row.fields[name]}" for name in telling] if not row.label else []
    if row.seeds:
        said.append(f"{len(row.seeds)} seeds")
    return f"{label} ({', '.join(said)})" if said else label
