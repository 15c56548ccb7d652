"""A leaderboard as CSV, JSON and one HTML file that needs nothing but a browser."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from harness.disk import write_atomically
from harness.leaderboard.columns import Column, Value, columns
from harness.leaderboard.entry import Entry, Leaderboard
from harness.tables.render import pipe_table

TEMPLATE = Path(__file__).with_name("page.html.jinja")
CHOICES = ("model", "method", "retention", "budget")
"""Columns that the page offers to filter by."""
# What a spreadsheet takes for the beginning of a formula; tab and line breaks are skipped before it looks.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(board: Leaderboard) -> str:
    """One line an entry, numbers as numbers. A text that a spreadsheet would take for a formula gets an apostrophe."""
    shown = columns(board)
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([_plain(column.key) for column in shown])
    for entry in board.entries:
        writer.writerow([_plain(column.raw(entry)) for column in shown])
    return sink.getvalue()


def to_json(board: Leaderboard) -> str:
    """All that is known of each entry, as `Leaderboard.model_json_schema()` describes it."""
    return board.model_dump_json(indent=1) + "\n"


@dataclass(frozen=True)
class _Shown:
    """One cell of the page: its text, and what it is sorted by ("" for nothing)."""

    text: str
    value: str
    numeric: bool


def to_html(board: Leaderboard) -> str:
    """One page with its style and script inside: it sorts and filters without a network."""
    # Imported here: `retain --help` need not wait for it.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = [column for column in columns(board) if column.header]
    rows = [[_cell(column, entry) for column in shown] for entry in board.entries]
    choices = [
        (column.header, [text for text in dict.fromkeys(column.show(entry) for entry in board.entries) if text])
        for column in shown
        if column.key in CHOICES
    ]
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(board=board, columns=shown, rows=rows, choices=choices)


def to_markdown(board: Leaderboard) -> str:
    """The main columns and the notes, for a terminal."""
    shown = [column for column in columns(board) if column.main]
    body = [[column.show(entry) for column in shown] for entry in board.entries]
    table = pipe_table([column.header for column in shown], body, [column.numeric for column in shown])
    return "\n".join([f"**{board.title}**", "", table, "", *(f"- {note}" for note in board.notes)]) + "\n"


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """Writes `leaderboard.csv`, `.json` and `.html`, each whole or not at all. StoreError when the disk refuses."""
    contents = {"csv": to_csv(board), "json": to_json(board), "html": to_html(board)}
    paths = []
    for suffix, content in contents.items():
        path = folder / f"leaderboard.{suffix}"
        write_atomically(path, content)
        paths.append(path)
    return paths


def _cell(column: Column, entry: Entry) -> _Shown:
    value = column.raw(entry)
    if not column.numeric:
        return _Shown(column.show(entry), column.show(entry), False)
    return _Shown(column.show(entry), str(value) if isinstance(value, int | float) else "", True)


def _plain(value: Value) -> str | int | float:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return "" if value is None else float(f"{value:.8g}") if isinstance(value, float) else value
