"""The paper's Tables 7 and 8, FLOPs and preservation, and our rows of the same methods beside its own."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence

from harness.tables.layout import MISSING, method_label, ratio
from harness.tables.render import pipe_table
from harness.tables.rows import RowResult, Table

HEAD = ("Source", "Model", "Method", "Retention", "TFLOPs (paper)", "Preservation (%)", "Note")
NEAR = 0.02
"""Where the paper tells a mean over layers, a row of ours that is no further from it is the same."""


def render(title: str, text: str, notes: Sequence[str], ours: Table | None, family: Callable[[str], str]) -> str:
    """Markdown of one of the two tables.

    Args:
        text: the transcribed CSV.
        ours: a table of ours with costs, whose rows go below the paper's of the same method; None for the paper alone.
        family: the paper's model of which one of ours is a smaller or local copy.
    """
    lines = []
    for printed in csv.DictReader(text.splitlines()):
        star = "*" if printed["retention_is_layer_average"] == "1" else ""
        named = [printed["model"], method_label(printed["method"]), ratio(float(printed["retention"])) + star]
        lines.append(["paper", *named, printed["tflops"], printed["preservation_pct"], printed["note"]])
        lines += [_line(row) for row in (ours.rows if ours else ()) if _same(row, printed, family(row.model))]
    notes = ["Source: arXiv 2506.01097 v1.", *notes]
    if ours is not None:
        notes.append("Ours: FLOPs of our model at the input that its table names; preservation on our samples.")
    first = 0 if ours is not None else 1
    numeric = [False, False, False, True, True, True, False]
    body = pipe_table(HEAD[first:], [line[first:] for line in lines], numeric[first:])
    return "\n".join([f"**{title}**", "", body, "", *(f"- {note}" for note in notes)]) + "\n"


def _line(row: RowResult) -> list[str]:
    tflops, average = row.costs.tflops if row.costs else None, row.averages[0].value
    shown = [MISSING if tflops is None else f"{tflops:.3g}", MISSING if average is None else f"{average:.1f}"]
    return ["ours", row.model, row.label, ratio(row.retention), *shown, ""]


def _same(row: RowResult, printed: Mapping[str, str], family: str) -> bool:
    """Whether a row of ours is the paper's: model, method, retention, and FastV's layer where both say it."""
    if (family, row.method) != (printed["model"], printed["method"]):
        return False
    asked = float(printed["retention"])
    if printed["retention_is_layer_average"] == "1":
        return row.layer_mean is not None and abs(row.layer_mean - asked) <= NEAR
    layer = printed["note"].rpartition(" layer ")[2] if " layer " in printed["note"] else ""
    told = "layer=" in row.label and layer
    return row.retention == asked and (not told or f"layer={layer})" in row.label)
