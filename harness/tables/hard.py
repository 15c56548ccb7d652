"""The columns of the samples that matter (`harness.statistics.hard`): a table of its own for readers, and for machines
more columns of the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from harness.statistics.hard import Hard
from harness.tables.rows import MISSING, Column, RowResult, Table

KEY = "hard:"
"""Before the key of what a column is about, in a CSV."""
WHATS = ("pct", "lo", "hi", "n")
"""After it: preservation in percent, the ends of its 95% interval, number of samples."""
TITLE = "The samples that matter"


def hard_columns(table: Table) -> list[Column]:
    """For readers, without those that name a row; [] where nothing is known of any sample."""
    found = []
    for position, group in enumerate(table.groups):
        names = [name for name in group.benchmarks if any(name in row.hard for row in table.rows)]
        found += [_column(name, partial(of_benchmark, name=name)) for name in names]
        if names:
            header = group.header.replace("Avg.(%)", "all").strip().capitalize()
            found.append(_column(header, partial(of_group, position=position)))
    return found


def hard_data_columns(table: Table) -> list[Column]:
    """For machines: those that hold anything."""
    found = []
    for name in table.benchmarks:
        found += _data(name, partial(of_benchmark, name=name))
    for position, group in enumerate(table.groups):
        found += _data(group.key.removesuffix("_pct"), partial(of_group, position=position))
    return [column for column in found if any(column.raw(row) is not None for row in table.rows)]


def hard_notes(table: Table) -> list[str]:
    """What a reader must know of them."""
    known = [name for name in table.benchmarks if any(name in row.hard for row in table.rows)]
    if not known:
        return []
    notes = [
        f"{TITLE}: those that downsample at the same model and retention answers wrong and vanilla right (arXiv "
        "2510.07143); the share that a row answers right, in percent, and in brackets how many they are. [low, high]: "
        "95% interval, from resamples of their videos and images."
    ]
    if unknown := [name for name in table.benchmarks if name not in known]:
        notes.append(f"{TITLE} are not known of {', '.join(unknown)}: not run, or answers there are graded.")
    return notes


def of_benchmark(row: RowResult, *, name: str) -> Hard | None:
    """What is known of one benchmark."""
    return row.hard.get(name)


def of_group(row: RowResult, *, position: int) -> Hard | None:
    """What is known of all benchmarks of one average."""
    return row.averages[position].hard if row.averages else None


def _column(header: str, get: Callable[[RowResult], Hard | None]) -> Column:
    def show(row: RowResult) -> str:
        found = get(row)
        if found is None:
            return MISSING
        value = MISSING if found.value is None else f"{found.value:.1f}"
        ends = f" [{found.interval.low:.1f}, {found.interval.high:.1f}]" if found.interval else ""
        return f"{value}{ends} ({found.n})"

    return Column(header, f"{header} (n)", lambda row: None, show)


def _data(key: str, get: Callable[[RowResult], Hard | None]) -> list[Column]:
    def column(what: str, pick: Callable[[Hard], float | None]) -> Column:
        def raw(row: RowResult) -> float | None:
            found = get(row)
            return None if found is None else pick(found)

        def show(row: RowResult) -> str:
            return MISSING if raw(row) is None else f"{raw(row):g}"

        return Column(f"{KEY}{key}_{what}", f"{key} hard {what}", raw, show, "0" if what == "n" else "0.0")

    picks: tuple[Callable[[Hard], float | None], ...] = (
        lambda found: found.value,
        lambda found: found.interval.low if found.interval else None,
        lambda found: found.interval.high if found.interval else None,
        lambda found: found.n,
    )
    return [column(what, pick) for what, pick in zip(WHATS, picks, strict=True)]
