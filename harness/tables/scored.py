"""Who scored a column: an exact match and a judge's word never stand in one unmarked."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from harness.statistics import Cell
from harness.tables.rows import Column, RowResult, Table

KEY = "scored:"
"""Before a benchmark's name, in a CSV: by what each row was scored."""


def mark(ways: Iterable[str]) -> str:
    """What the head of a column says of the ways in which its scores were made (`Cell.scored`): " (exact)",
    " (judged)", " (partly judged)", or "" where there is nothing to say, or where each cell says its own.
    """
    found = set(ways)
    if len(found) != 1 or found == {""}:
        return ""
    (way,) = found
    return " (exact)" if way.startswith("exact") else " (judged)" if way.startswith("judge ") else " (partly judged)"


def ways_of(table: Table, benchmark: str) -> set[str]:
    """The ways in which the scores of a benchmark were made."""
    rows = [line for row in table.rows for line in (row, *row.seeds)]
    return {cell.scored for row in rows if (cell := row.cells.get(benchmark)) and cell.score is not None}


def own_mark(cell: Cell, ways: set[str]) -> str:
    """What a cell says for itself, in a column whose scores were made in several ways."""
    return f" ({cell.scored or 'own metric'})" if len(ways) > 1 and cell.score is not None else ""


def scored_columns(table: Table) -> list[Column]:
    """For machines: one a benchmark that can be scored in several ways."""

    def raw(row: RowResult, *, name: str) -> str | None:
        cell = row.cells.get(name)
        return (cell.scored or None) if cell else None

    def show(row: RowResult, *, name: str) -> str:
        return raw(row, name=name) or ""

    return [
        Column(KEY + name, f"{name} scored by", partial(raw, name=name), partial(show, name=name), numeric=False)
        for name in table.benchmarks
        if ways_of(table, name) - {""}
    ]
