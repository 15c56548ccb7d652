"""Tables: what builds one (`harness.layout`) and what writes it down (`harness.render`), under one name.

table = build(rows, benchmarks, title="Table 3", micro=True)
print(to_markdown(table))
write(table, folder, "table3")          # table3.md, .csv, .xlsx, .tex
"""

from __future__ import annotations

from harness.layout import build
from harness.render import from_csv, to_csv, to_latex, to_markdown, to_xlsx, write
from harness.rows import Average, Group, RowResult, Table, method_label
from harness.statistics import Cell

__all__ = [
    "Average",
    "Cell",
    "Group",
    "RowResult",
    "Table",
    "build",
    "from_csv",
    "method_label",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_xlsx",
    "write",
]
