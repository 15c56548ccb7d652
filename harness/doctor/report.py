"""The checks for people and for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from harness.doctor.check import Check

WIDE = 160
"""Columns of what is printed to a file."""
STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def show(checks: Sequence[Check]) -> None:
    """Prints a table with a line for each check, and what they come to."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head, ratio in (("", None), ("Area", None), ("What", 2), ("Found", 5)):
        table.add_column(head, ratio=ratio, overflow="fold")
    for check in checks:
        table.add_row(Text(check.state, STYLES[check.state]), check.area, Text(check.name), Text(check.said))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(table)
    console.print(f"\n{verdict(checks)}", markup=False, highlight=False)


def verdict(checks: Sequence[Check]) -> str:
    """One sentence over all checks."""
    missing, warnings = (sum(check.state == state for check in checks) for state in ("missing", "warning"))
    if missing:
        return f"Missing: {missing}, which a run needs. Warnings: {warnings}."
    return f"All is well{f', with warnings: {warnings}' if warnings else ''}."


def to_json(profile: str, checks: Sequence[Check]) -> str:
    """The same for machines."""
    found = [dataclasses.asdict(check) for check in checks]
    well = not any(check.state == "missing" for check in checks)
    return json.dumps({"profile": profile, "well": well, "checks": found}, indent=1, ensure_ascii=False) + "\n"
