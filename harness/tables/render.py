"""A table as Markdown, CSV, xlsx or LaTeX, and the way back from CSV.

Markdown and LaTeX are for readers (a model's name stands once, as in the paper); CSV and xlsx are for machines: every
row names its model, numbers are numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.disk import write_atomically
from harness.statistics import Cell, Interval
from harness.statistics.hard import Hard
from harness.tables import scored
from harness.tables.hard import KEY, TITLE, WHATS, hard_columns
from harness.tables.layout import COSTS, columns, data_columns
from harness.tables.rows import FLOORS, Average, Column, Costs, Group, RowResult, Table
from model_wrappers.errors import UserError

# Columns of a CSV that are neither a benchmark nor an average.
FIXED = (
    "model",
    "method",
    "label",
    "seed",
    "retention",
    "realised",
    "layer_mean",
    "equivalent_tokens",
    "evidence_kept",
    *(key for key, *_ in COSTS),
)
# And those about an average, by their ends: "avg_pct" has "avg_lo".
ABOUT_AVERAGE = ("lo", "hi", "noise", *(f"below_{floor}" for floor in FLOORS), "n", "asked")

_INCOMPLETE = re.compile(r"incomplete \((\d+) of (\d+)\)")
# Characters that no xlsx file may hold.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"\dag{}",
    "≈": r"$\approx$",
    "↓": r"$\downarrow$",
    "▼": r"$\bigtriangledown$",
}


def to_markdown(table: Table) -> str:
    """The title, a table whose columns line up in a terminal, and the footnotes as a list."""
    parts = [f"**{_markdown(table.title)}**", ""] if table.title else []
    for number, (head, shown, rows) in enumerate(_blocks(table)):
        parts += ["", f"**{head}**", ""] if number else []
        parts.append(pipe_table([c.header for c in shown], _once(rows, shown), [c.numeric for c in shown]))
    if table.notes:
        parts += ["", *(f"- {_markdown(note)}" for note in table.notes)]
    return "\n".join(parts) + "\n"


def pipe_table(head: Sequence[str], body: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """A Markdown table whose columns line up, numeric ones to the right; bars in the texts are escaped."""
    lines = [[_markdown(text) for text in line] for line in [head, *body]]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]
    shown = [
        "| "
        + " | ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        )
        + " |"
        for line in lines
    ]
    rules = ("-" * (w + 1) + ":" if right else "-" * (w + 2) for w, right in zip(widths, numeric, strict=True))
    return "\n".join([shown[0], f"|{'|'.join(rules)}|", *shown[1:]])


def to_csv(table: Table) -> str:
    """Comma-separated, one header line: FIXED columns where known, scores, averages in percent, shares in [0, 1].

    After an average come the ends of its 95% interval, whether the row is noise (1) or not (0), 1 where it is below
    random or downsample, and how many samples are behind it; after all of them the same of the samples that matter
    (hard:...), and at last by what a benchmark was scored, exact match or which judge (scored:...). Below a row that is
    the mean of several seeds stands each of these, its seed in the column `seed`.
    """
    shown = data_columns(table)
    label = Column("label", "label", lambda row: row.label, lambda row: row.label)
    shown.insert(2, label)
    if any(row.realised is not None for row in table.rows):
        shown.append(Column("realised", "realised", lambda row: row.realised, lambda row: str(row.realised)))
    seeded = any(row.seeds for row in table.rows)
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*(column.key for column in shown), *(["seed"] if seeded else [])])
    for row in table.rows:
        for line in (row, *row.seeds):
            seed = [] if not seeded else [""] if line is row else [str(line.fields["seed"])]
            writer.writerow([*(_plain(column.raw(line)) for column in shown), *seed])
    return sink.getvalue()


def from_csv(text: str, *, title: str = "", micro: bool | None = None) -> Table:
    """The table that `to_csv` wrote (or a transcribed table of the paper), averages as they stand in it.

    Footnotes, cell notes, pairs and sample counts of single complete cells are not in a CSV. `micro` is read off the
    evidence column when None. Raises UserError naming the line and column of a value that is no number.
    """
    reader = csv.DictReader(io.StringIO(text))
    names = list(reader.fieldnames or [])

    def about(group: Group) -> list[str]:
        return [group.key_of(what) for what in ABOUT_AVERAGE]

    if absent := [name for name in ("model", "method", "retention") if name not in names]:
        raise UserError(f"a table's CSV needs the columns model, method and retention; missing: {', '.join(absent)}")
    groups: list[Group] = []
    current: list[str] = []
    for name in names:
        if name.startswith((KEY, scored.KEY)):
            continue
        if name.endswith("avg_pct"):
            groups.append(Group(tuple(current), _average_header(name), name))
            current = []
        elif name not in FIXED and not (groups and name in map(groups[-1].key_of, ABOUT_AVERAGE)):
            current.append(name)
    if current:
        raise UserError(f"a table's CSV has no average column after {', '.join(current)}")
    rows: list[RowResult] = []
    for number, line in enumerate(reader, start=2):
        row = _read_row(line, number, groups)
        if line.get("seed"):
            if not rows:
                raise UserError(f"line {number} of a table's CSV: a row of one seed has no row of their mean above it")
            seed = replace(row, fields={"seed": line["seed"]})
            rows[-1] = replace(rows[-1], seeds=(*rows[-1].seeds, seed))
        else:
            rows.append(row)
    return Table(title, tuple(groups), tuple(rows), (), "evidence_kept" in names if micro is None else micro)


def to_xlsx(table: Table) -> bytes:
    """A workbook: the sheet `table` (or `micro`) with numbers as numbers, and `about` with title and footnotes.

    Text is stored as text: a name that starts with = + - or @ is never read as a formula.
    """
    # Imported here: a third of a second that `retain --help` need not wait.
    from openpyxl import Workbook
    from openpyxl.styles import Font

    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "micro" if table.micro else "table"
    shown = data_columns(table)
    for place, column in enumerate(shown, start=1):
        _put(sheet.cell(1, place), column.header)
        sheet.cell(1, place).font = Font(bold=True)
        sheet.column_dimensions[sheet.cell(1, place).column_letter].width = max(10, len(column.header) + 2)
    for number, row in enumerate(table.rows, start=2):
        for place, column in enumerate(shown, start=1):
            value = column.raw(row) if column.numeric else column.show(row)
            _put(sheet.cell(number, place), value)
            if isinstance(value, float | int):
                sheet.cell(number, place).number_format = column.number_format
    sheet.freeze_panes = "D2"
    about = book.create_sheet("about")
    for number, text in enumerate([table.title, *table.notes], start=1):
        _put(about.cell(number, 1), text)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def to_latex(table: Table) -> str:
    r"""A `table` environment for the booktabs package: a rule between models, footnotes under the table."""
    out = [r"% needs \usepackage{booktabs}", r"\begin{table}[t]", r"\centering", r"\small"]
    if table.title:
        out.append(rf"\caption{{{_latex(table.title)}}}")
    for place, (head, shown, rows) in enumerate(_blocks(table)):
        out += [rf"\par\medskip {_latex(head)}\par\smallskip"] if place else []
        out += [rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in shown)}}}", r"\toprule"]
        out += [" & ".join(_latex(column.header) for column in shown) + r" \\", r"\midrule"]
        for number, line in enumerate(_once(rows, shown)):
            if number and line[0]:
                out.append(r"\midrule")
            out.append(" & ".join(_latex(text) for text in line) + r" \\")
        out += [r"\bottomrule", r"\end{tabular}"]
    out += [rf"\par\smallskip\footnotesize {_latex(note)}" for note in table.notes]
    return "\n".join([*out, r"\end{table}"]) + "\n"


def write(table: Table, folder: Path, name: str) -> list[Path]:
    """Write `<name>.md`, `.csv`, `.xlsx` and `.tex` into `folder`, each whole or not at all. Returns their paths.

    Raises StoreError when the disk refuses.
    """
    contents = {
        "md": to_markdown(table).encode(),
        "csv": to_csv(table).encode(),
        "xlsx": to_xlsx(table),
        "tex": to_latex(table).encode(),
    }
    paths = {folder / f"{name}.{suffix}": content for suffix, content in contents.items()}
    for path, content in paths.items():
        write_atomically(path, content)
    return list(paths)


def _blocks(table: Table) -> list[tuple[str, list[Column], Sequence[RowResult]]]:
    """The parts of a table for readers: title (the first goes under the table's own), columns, and the rows that have
    something in them.
    """
    shown, more = columns(table), hard_columns(table)
    found: list[tuple[str, list[Column], Sequence[RowResult]]] = [("", shown, table.rows)]
    if more:
        found.append((TITLE, [*shown[:3], *more], [row for row in table.rows if row.hard]))
    return found


def _once(rows: Sequence[RowResult], shown: list[Column]) -> list[list[str]]:
    """The body as text, a model's name in the first of its rows only."""
    lines, last = [], None
    for row in rows:
        line = [column.show(row) for column in shown]
        if row.model == last:
            line[0] = ""
        last = row.model
        lines.append(line)
    return lines


def _markdown(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _plain(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    shown = round(value, 6) if abs(value) >= 1 else float(f"{value:.6g}")
    return format(shown, "g" if float(value).is_integer() else "")


def _put(cell: Any, value: str | float | None) -> None:
    if isinstance(value, str):
        cell.value = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
        # openpyxl takes "=..." for a formula and "#N/A" for an error; the prefix stops spreadsheets from guessing too.
        cell.data_type = "s"
        cell.quotePrefix = value[:1] in ("=", "+", "-", "@")
    else:
        cell.value = value


def _average_header(key: str) -> str:
    kind = key.removesuffix("avg_pct").strip("_")
    return f"{kind.capitalize()} Avg.(%)" if kind else "Avg.(%)"


def _read_row(line: dict[str, str], number: int, groups: list[Group]) -> RowResult:
    def value(name: str) -> float | None:
        text = line.get(name)
        if text is None or text == "":
            return None
        try:
            return float(text)
        except ValueError:
            raise UserError(f"line {number} of a table's CSV: {name} is {text!r}, which is no number") from None

    cells = {}
    for name in (name for group in groups for name in group.benchmarks):
        if found := _INCOMPLETE.fullmatch(line.get(name) or ""):
            cells[name] = Cell(None, int(found[1]), int(found[2]))
        elif (score := value(name)) is not None:
            cells[name] = Cell(score, scored=line.get(scored.KEY + name) or "")
    retention = value("retention")
    if retention is None:
        raise UserError(f"line {number} of a table's CSV: retention is empty")
    return RowResult(
        line["model"],
        line["method"],
        line.get("label") or "",
        retention,
        cells,
        evidence_kept=value("evidence_kept"),
        realised=value("realised"),
        layer_mean=value("layer_mean"),
        equivalent_tokens=value("equivalent_tokens"),
        averages=tuple(_read_average(group, value) for group in groups),
        hard={name: hard for name in cells if (hard := _read_hard(name, value))},
        costs=_read_costs(line, value),
    )


def _read_costs(line: dict[str, str], value: Callable[[str], float | None]) -> Costs | None:
    if not any(key in line for key, *_ in COSTS):
        return None
    found = {part: value(key) for key, _, part, _ in COSTS}
    scales = {part: scale for _, _, part, scale in COSTS}
    return Costs(**{part: None if number is None else number / scales[part] for part, number in found.items()})


def _read_average(group: Group, value: Callable[[str], float | None]) -> Average:
    low, high, noise, n, asked = (value(group.key_of(what)) for what in ("lo", "hi", "noise", "n", "asked"))
    return Average(
        value(group.key),
        interval=None if low is None or high is None else Interval(low, high),
        noise=None if noise is None else bool(noise),
        n=int(n or 0),
        asked=int(asked or 0),
        below=tuple(floor for floor in FLOORS if value(group.key_of(f"below_{floor}"))),
        hard=_read_hard(group.key.removesuffix("_pct"), value),
    )


def _read_hard(key: str, value: Callable[[str], float | None]) -> Hard | None:
    share, low, high, n = (value(f"{KEY}{key}_{what}") for what in WHATS)
    return None if n is None else Hard(share, int(n), None if low is None or high is None else Interval(low, high))
