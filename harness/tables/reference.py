"""The paper's own tables (arXiv 2506.01097 v1), and ours beside them.

The numbers are transcribed in results/reference of the repository. That folder is no part of a package: it is found
beside the package `harness`, so these functions need a checkout (`make setup` or `pip install -e`).

Averages are recomputed from the raw columns by the code that makes ours (`harness.statistics`). Where the paper prints
another average than its own row gives, the printed one is shown with a mark and the difference is told: a slip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.statistics import preservation
from harness.tables import printed_costs
from harness.tables.layout import (
    METHOD_LABELS,
    MISSING,
    Average,
    Column,
    RowResult,
    Table,
    columns,
    method_label,
    ratio,
)
from harness.tables.render import from_csv, pipe_table, to_markdown
from harness.tables.scored import mark, ways_of
from model_wrappers.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "results" / "reference"

# The paper prints averages with one digit: what differs by this much or more is not its rounding.
TOLERANCE = 0.1

TITLES = {
    "table1": "Table 1: relevance as a guide, image and video benchmarks",
    "table2": "Table 2: compressor and FastV, image benchmarks",
    "table3": "Table 3: compressor and FastV, video benchmarks",
    "table4": "Table 4: relevance with and without the gradient as weight of the heads",
    "table5": "Table 5: compressor and FastV, larger images",
    "table6": "Table 6: compressor and FastV, longer videos",
    "table7": "Table 7: efficiency, MMStar",
    "table8": "Table 8: efficiency, MVBench",
}
# FLOPs and preservation, not scores of benchmarks: shown as they are.
EFFICIENCY = ("table7", "table8")
EFFICIENCY_NOTES = {
    "table7": ("Retention with *: mean over the LLM's layers.",),
    "table8": (
        "Retention with *: as reported by that method's own paper.",
        "Printed slip: the compressor's cost is counted for Qwen2-VL (10.9) and not for LLaVA-OneVision (11.7; 11.8 "
        "with it).",
    ),
}

MARK = "†"

# How a model of ours is recognised as a smaller or local copy of one of the paper's three.
_FAMILIES = (
    (re.compile(r"qwen2[-_]?vl", re.IGNORECASE), "Qwen2-VL-7B"),
    (re.compile(r"llava[-_]?one[-_]?vision", re.IGNORECASE), "LLaVA-OneVision-7B"),
    (re.compile(r"vila", re.IGNORECASE), "VILA1.5-8B"),
)


@dataclass(frozen=True)
class Slip:
    """An average that the paper prints and its own row contradicts; both in percent."""

    table: str
    model: str
    method: str
    retention: float
    column: str
    printed: float
    recomputed: float

    def __str__(self) -> str:
        where = f"{self.model}, {method_label(self.method)} at {ratio(self.retention)}"
        return f"printed slip: {where} prints {self.printed:.1f} where its own row gives {self.recomputed:.1f}"


@dataclass(frozen=True)
class Reference:
    """One of Tables 1 to 6: `table` holds the printed averages, `recomputed` ours: a tuple a row, a value a group."""

    name: str
    table: Table
    recomputed: tuple[tuple[float | None, ...], ...]
    slips: tuple[Slip, ...]


def names() -> list[str]:
    """The tables that can be shown."""
    return list(TITLES)


def load(name: str) -> Reference:
    """Read one of Tables 1 to 6 and recompute its averages.

    Raises UserError for another name, for the efficiency tables 7 and 8, and when results/reference is not there.
    """
    text = _text(name)
    if name in EFFICIENCY:
        raise UserError(f"{name} holds FLOPs, not scores of benchmarks; `retain reference {name}` shows it as printed")
    table = from_csv(text, title=f"{TITLES[name]} (paper)")
    vanilla = {row.model: row.cells for row in table.rows if row.method == "vanilla"}
    recomputed = tuple(
        tuple(preservation(row.cells, vanilla.get(row.model, {}), group.benchmarks) for group in table.groups)
        for row in table.rows
    )
    found: list[Slip] = []
    rows: list[RowResult] = []
    for row, values in zip(table.rows, recomputed, strict=True):
        averages = []
        for group, printed, value in zip(table.groups, row.averages, values, strict=True):
            slip = printed.value is None or value is None or abs(printed.value - value) >= TOLERANCE
            averages.append(Average(printed.value, MARK if slip else ""))
            if slip and printed.value is not None and value is not None:
                found.append(Slip(name, row.model, row.method, row.retention, group.key, printed.value, value))
        rows.append(replace(row, label=method_label(row.method), averages=tuple(averages)))
    notes = (
        ['Source: arXiv 2506.01097 v1. CNN (learned) is the paper\'s "Ours".']
        if _has(rows, "cnn")
        else ["Source: arXiv 2506.01097 v1."]
    )
    notes += [f"{MARK} {slip}." for slip in found]
    if not found:
        notes.append("Every printed average follows from its own row, to 0.1.")
    return Reference(name, replace(table, rows=tuple(rows), notes=tuple(notes)), recomputed, tuple(found))


def slips() -> list[Slip]:
    """Every average of Tables 1 to 6 that its own row contradicts."""
    return [slip for name in TITLES if name not in EFFICIENCY for slip in load(name).slips]


def render(table: str, ours: Table | None = None) -> str:
    """Markdown of one of the paper's tables, its slips marked; with `ours`, our rows beside those of the paper
    as far as there are any.

    Raises UserError for an unknown table.
    """
    if table in EFFICIENCY:
        return printed_costs.render(f"{TITLES[table]} (paper)", _text(table), EFFICIENCY_NOTES[table], ours, _family)
    reference = load(table)
    shown = to_markdown(reference.table)
    if ours is None:
        return shown
    unmatched = _unmatched(ours, reference.table)
    return f"{shown}\n{unmatched}\n" if unmatched else f"{shown}\n{side_by_side(ours, reference.table)}"


def side_by_side(ours: Table, paper: Table) -> str:
    """Markdown with each row of ours that the paper has, too, followed by the paper's; benchmarks that both have, and
    the averages that both give.

    A model of ours stands beside the paper's model of its family, whatever its size. Raises UserError when the two
    tables share no row or no benchmark.
    """
    shared = [name for name in paper.benchmarks if name in ours.benchmarks]
    printed = {(row.model, row.method, row.retention): row for row in paper.rows}
    pairs = [(row, other) for row in ours.rows if (other := printed.get(_key(row))) is not None]
    if unmatched := _unmatched(ours, paper):
        raise UserError(unmatched)
    ours_by, paper_by = _by_key(ours, shared), _by_key(paper, shared)
    ours_too = {group.key for group in ours.groups}
    named: list[tuple[str, str]] = []
    for group in paper.groups:
        both = [(name, name) for name in group.benchmarks if name in shared]
        named += both + ([(group.key, group.header)] if both and group.key in ours_too else [])
    head = ["Source", "Model", "Method", "Retention", *(header for _, header in named)]
    keys = ["model", "method", "retention", *(key for key, _ in named)]
    lines = []
    for row, other in pairs:
        for source, by, shown in (("ours", ours_by, row), ("paper", paper_by, other)):
            lines.append([source, *(_shown(by, key, shown) for key in keys)])
    notes = ["Avg.(%) is relative to each model's own vanilla row; the scores belong to different models and data."]
    if ours.micro:
        notes.append(
            "Ours is the micro profile: a tiny model on generated scenes. It shows the machinery, not the result."
        )
    ways = {name: ways_of(ours, name) - {""} for name in shared}
    notes += [
        f"{name}: ours by {way}; the paper does not say by what judge its own are."
        for name, found in ways.items()
        for way in found
    ]
    if set(shared) != set(paper.benchmarks):
        notes.append("Avg.(%) of the two sources is over different benchmarks; only shared ones are shown.")
    numeric = [False, False, False, *[True] * (len(head) - 3)]
    body = pipe_table(head, lines, numeric)
    return (
        "\n".join([f"**Ours beside the paper: {ours.title or 'our table'}**", "", body, "", *(f"- {n}" for n in notes)])
        + "\n"
    )


def _shown(by: dict[str, Column], key: str, row: RowResult) -> str:
    """A cell; a score says itself by what it was made: the two sources of a column may differ in it."""
    if key not in by:
        return MISSING
    cell = row.cells.get(key)
    return by[key].show(row) + (mark([cell.scored]) if cell else "")


def _text(name: str) -> str:
    if name not in TITLES:
        raise UserError(f"{name!r} is no table of the paper; known: {', '.join(TITLES)}")
    path = FOLDER / f"{name}.csv"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read; the paper's tables need a checkout of the repository: {error}"
        ) from error


def _family(model: str) -> str:
    return next((paper for pattern, paper in _FAMILIES if pattern.search(model)), model)


def _unmatched(ours: Table, paper: Table) -> str | None:
    """Why two tables cannot be set side by side, in one sentence; None where they can."""
    if not set(ours.benchmarks) & set(paper.benchmarks):
        return "Nothing to set side by side: our table and the paper's share no benchmark."
    if not {_key(row) for row in ours.rows} & {(row.model, row.method, row.retention) for row in paper.rows}:
        return "Nothing to set side by side: our table and the paper's share no model, method and retention."
    return None


def _key(row: RowResult) -> tuple[str, str, float]:
    """What the paper calls the row: a method whose fields make it another one in the paper says so in its label."""
    method = next((name for name, label in METHOD_LABELS.items() if label == row.label), row.method)
    return (_family(row.model), method, row.retention)


def _by_key(table: Table, benchmarks: Iterable[str]) -> dict[str, Column]:
    wanted = {"model", "method", "retention", *benchmarks, *(group.key for group in table.groups)}
    return {column.key: column for column in columns(table) if column.key in wanted}


def _has(rows: Iterable[RowResult], method: str) -> bool:
    return any(row.method == method for row in rows)
