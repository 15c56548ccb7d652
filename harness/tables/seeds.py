"""Rows that differ in nothing but their seed, as one row: what a method that draws is worth, whatever it drew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from harness.statistics import Cell
from harness.tables.rows import RowResult

FEWEST_SEEDS = 3


def merge(rows: Iterable[RowResult]) -> list[RowResult]:
    """Every three or more rows of the same model, method, retention and fields but for `seed` as one, in the place of
    the first: scores and shares are means over the seeds; `seeds` holds the rows themselves.
    """
    together: dict[Any, list[RowResult]] = {}
    for place, row in enumerate(rows):
        fields = tuple(sorted((name, repr(value)) for name, value in row.fields.items() if name != "seed"))
        alone = () if "seed" in row.fields else (place,)
        together.setdefault((row.model, row.method, row.label, row.retention, fields, alone), []).append(row)
    merged = []
    for members in together.values():
        seeds = {repr(row.fields.get("seed")) for row in members}
        merged += [_mean(members)] if len(seeds) == len(members) >= FEWEST_SEEDS else members
    return merged


def _mean(rows: Sequence[RowResult]) -> RowResult:
    names = dict.fromkeys(name for row in rows for name in row.cells)
    cells = {name: _cell([row.cells[name] for row in rows if name in row.cells], len(rows)) for name in names}
    fields = {name: value for name, value in rows[0].fields.items() if name != "seed"}
    return replace(
        rows[0],
        cells={name: cell for name, cell in cells.items() if cell is not None},
        evidence_kept=_known_mean([row.evidence_kept for row in rows]),
        realised=_known_mean([row.realised for row in rows]),
        layer_mean=_known_mean([row.layer_mean for row in rows]),
        equivalent_tokens=_known_mean([row.equivalent_tokens for row in rows]),
        fields=fields,
        seeds=tuple(rows),
    )


def _cell(cells: Sequence[Cell], seeds: int) -> Cell | None:
    """The mean of a benchmark's cells; without score, and with the fewest samples, where a seed is not complete; None
    where a seed was not run.
    """
    if len(cells) < seeds:
        return None
    first = cells[0]
    scores = [cell.score for cell in cells if cell.score is not None and cell.complete]
    if len(scores) < seeds or len({(cell.samples, cell.total) for cell in cells}) > 1:
        return replace(first, score=None, n=min(cell.n for cell in cells), runs=())
    runs = tuple(run for cell in cells for run in cell.runs)
    return replace(first, score=fmean(scores), runs=runs if len(runs) == seeds else ())


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
