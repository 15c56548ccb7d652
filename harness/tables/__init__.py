"""Tables: what builds one (`harness.tables.layout`) and what writes it down (`harness.tables.render`), under one name.

table = build(rows, benchmarks, title="Table 3", micro=True)
print(to_markdown(table))
write(table, folder, "table3")          # table3.md, .csv, .xlsx, .tex
"""

from __future__ import annotations

from harness.statistics import Cell
from harness.tables.layout import build
from harness.tables.render import from_csv, to_csv, to_latex, to_markdown, to_xlsx, write
from harness.tables.rows import Average, Group, RowResult, Table, method_label

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
