"""What a table holds, in the paper's layout: Model | Method | Retention | benchmarks | Avg.(%).

A table is built once from rows of cells and rendered by `harness.render` as Markdown, CSV, xlsx or LaTeX. Cells with
failed samples say "incomplete (n of N)", and a row that holds one has no average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.statistics import Cell, preservation

METHOD_LABELS = {
    "vanilla": "Vanilla",
    "fastv": "FastV",
    "cnn": "CNN (learned)",
    "relevance": "Relevance",
    "relevance_mean": "Relevance (mean of heads, no gradient)",
    "first_layer_attention": "First-layer attention",
    "random": "Random",
    "uniform": "Uniform",
    "oracle": "Oracle",
    "anti-oracle": "Anti-oracle",
    "pyramiddrop": "PyramidDrop",
    "fastvid": "FastVID",
    "prunevid": "PruneVID",
    "visionzip": "VisionZip",
}

# Digits after the point, as the paper prints them.
DECIMALS = {"MMBench-Video": 2}

MISSING = "-"


@dataclass(frozen=True)
class Average:
    """One Avg.(%) of one row: percent, or None where no average may be given; `mark` points to a footnote."""

    value: float | None
    mark: str = ""


@dataclass(frozen=True)
class Group:
    """Benchmarks that share one average, in order, and the header of that average."""

    benchmarks: tuple[str, ...]
    header: str = "Avg.(%)"
    key: str = "avg_pct"


@dataclass(frozen=True)
class RowResult:
    """One row: a model with a method at one retention ratio.

    model, method: names as the registry knows them. label: the method's name for readers; "" = `method_label(method)`.
    retention: the ratio asked for, in (0, 1]. cells: benchmark name -> Cell; a benchmark left out was not run.
    evidence_kept: of the visual tokens that a question is about, the share in [0, 1] that the method kept (mean over
        samples); None if unknown.
    realised: mean over samples of kept / visual at the method's last cut, in [0, 1].
    layer_mean: mean over samples and LLM layers of the visual tokens in the KV cache / visual tokens, in [0, 1].
    fields: the method's hyper-parameters; rows that differ only in these get them in their labels.
    averages: set by `build`, one for each group.
    """

    model: str
    method: str
    label: str
    retention: float
    cells: Mapping[str, Cell]
    evidence_kept: float | None = None
    realised: float | None = None
    layer_mean: float | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    averages: tuple[Average, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows, the groups of benchmarks that are its columns, and the footnotes. `micro` adds the micro-only columns."""

    title: str
    groups: tuple[Group, ...]
    rows: tuple[RowResult, ...]
    notes: tuple[str, ...] = ()
    micro: bool = False

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group.benchmarks)


@dataclass(frozen=True)
class Column:
    """One column: `raw` is the value for machines (shares in [0, 1], averages in percent), `show` the readers' text."""

    key: str
    header: str
    raw: Callable[[RowResult], str | float | None]
    show: Callable[[RowResult], str]
    number_format: str = "General"
    numeric: bool = True


def method_label(method: str) -> str:
    """The plain name of a method for readers; an unknown method is called by its own name."""
    return METHOD_LABELS.get(method, method)


def build(
    rows: Iterable[RowResult],
    benchmarks: Sequence[str] = (),
    *,
    title: str = "",
    micro: bool = False,
    notes: Sequence[str] = (),
    groups: Sequence[Group] | None = None,
) -> Table:
    """Complete rows with labels and averages, and the table with the footnotes that its numbers need.

    rows: in the order to be shown; the row with method "vanilla" is the base of its model's averages.
    benchmarks: the columns, in order, with one average over all of them; `groups` where a table has several averages.
    title: "micro" is added when `micro` is set and the title does not say so.
    notes: footnotes of the caller (judge, positions), put after those made here.
    """
    rows = list(rows)
    layout = tuple(groups) if groups is not None else (Group(tuple(benchmarks)),)
    vanilla = {row.model: row.cells for row in rows if row.method == "vanilla"}
    done = []
    for row in rows:
        base = vanilla.get(row.model, {})
        averages = tuple(Average(preservation(row.cells, base, group.benchmarks)) for group in layout)
        done.append(replace(row, label=_label(row, rows), averages=averages))
    if micro and "micro" not in title.lower():
        title = f"{title} (micro)".strip()
    table = Table(title, layout, tuple(done), (), micro)
    return replace(table, notes=(*_notes(table), *notes))


def columns(table: Table) -> list[Column]:
    """The columns of a table, left to right."""
    found = [
        Column("model", "Model", lambda row: row.model, lambda row: row.model, numeric=False),
        Column("method", "Method", lambda row: row.method, lambda row: row.label, numeric=False),
        Column("retention", "Retention", lambda row: row.retention, lambda row: ratio(row.retention), "0.##%"),
    ]
    for position, group in enumerate(table.groups):
        found += [_score_column(name) for name in group.benchmarks]
        found.append(_average_column(position, group))
    if any(row.layer_mean is not None for row in table.rows):
        found.append(_share_column("layer_mean", "Layer mean (%)", lambda row: row.layer_mean))
    if table.micro:
        found.append(_share_column("evidence_kept", "Evidence kept (%)", lambda row: row.evidence_kept))
    return found


def ratio(value: float) -> str:
    """A retention ratio as the paper prints it: 0.25 -> "25%", 0.125 -> "12.5%"."""
    return f"{100 * value:.2f}".rstrip("0").rstrip(".") + "%"


def show_cell(benchmark: str, cell: Cell | None) -> str:
    """A score with the paper's digits, "incomplete (n of N)" where samples failed, "-" where nothing was run."""
    if cell is None:
        return MISSING
    if not cell.complete or cell.score is None:
        return f"incomplete ({cell.n} of {cell.total})"
    return f"{cell.score:.{DECIMALS.get(benchmark, 1)}f}"


def _score_column(benchmark: str) -> Column:
    def raw(row: RowResult) -> str | float | None:
        cell = row.cells.get(benchmark)
        if cell is None:
            return None
        return cell.score if cell.complete else show_cell(benchmark, cell)

    digits = "0" * DECIMALS.get(benchmark, 1)
    return Column(benchmark, benchmark, raw, lambda row: show_cell(benchmark, row.cells.get(benchmark)), f"0.{digits}")


def _average_column(position: int, group: Group) -> Column:
    def show(row: RowResult) -> str:
        average = row.averages[position]
        return MISSING if average.value is None else f"{average.value:.1f} {average.mark}".rstrip()

    return Column(group.key, group.header, lambda row: row.averages[position].value, show, "0.0")


def _share_column(key: str, header: str, get: Callable[[RowResult], float | None]) -> Column:
    def show(row: RowResult) -> str:
        share = get(row)
        return MISSING if share is None else f"{100 * share:.1f}"

    return Column(key, header, get, show, "0.0%")


def _label(row: RowResult, rows: Sequence[RowResult]) -> str:
    label = row.label or method_label(row.method)
    siblings = [other.fields for other in rows if (other.model, other.method) == (row.model, row.method)]
    telling = [name for name, value in row.fields.items() if any(other.get(name) != value for other in siblings)]
    if telling and not row.label:
        label += " (" + ", ".join(f"{name}={row.fields[name]}" for name in telling) + ")"
    return label


def _notes(table: Table) -> list[str]:
    notes = ["Avg.(%): mean over the benchmarks of score / score of vanilla."]
    cells = [(name, row.cells[name]) for row in table.rows for name in table.benchmarks if name in row.cells]
    if any(not cell.complete for _, cell in cells):
        notes.append("incomplete (n of N): only n of N samples have an answer, so no score and no average is given.")
    elif any(average.value is None for row in table.rows for average in row.averages):
        notes.append(f"{MISSING} under Avg.(%): a benchmark is missing, or its samples are not those vanilla answered.")
    sizes = {name: cell.total for name, cell in cells if cell.total}
    if len(set(sizes.values())) == 1 and set(sizes) == set(table.benchmarks):
        notes.append(f"{next(iter(sizes.values()))} samples in each benchmark.")
    elif sizes:
        notes.append("Samples: " + ", ".join(f"{name} {size}" for name, size in sizes.items()) + ".")
    remarks: dict[str, list[str]] = {}
    for name, cell in cells:
        if cell.note and name not in remarks.setdefault(cell.note, []):
            remarks[cell.note].append(name)
    notes += [f"{', '.join(names)}: {remark}." for remark, names in remarks.items()]
    settings = {row.label: ", ".join(f"{name}={value}" for name, value in row.fields.items()) for row in table.rows}
    if said := "; ".join(f"{label} {values}" for label, values in settings.items() if values and "(" not in label):
        notes.append(f"Method settings: {said}.")
    notes += _token_notes(table)
    return notes


def _token_notes(table: Table) -> list[str]:
    notes = []
    realised: dict[float, set[str]] = {}
    for row in table.rows:
        if row.realised is not None and row.retention < 1:
            realised.setdefault(row.retention, set()).add(f"{100 * row.realised:.1f}%")
    if realised:
        said = "; ".join(f"{ratio(asked)} kept {' to '.join(_ends(kept))}" for asked, kept in realised.items())
        notes.append(f"Retention is the ratio asked for; of the visual tokens, {said} (mean over samples).")
        renumbered = dict.fromkeys(row.label for row in table.rows if row.fields.get("positions") == "renumber")
        but = f", but for {', '.join(renumbered)}" if renumbered else ""
        notes.append(f"Kept tokens keep their own positions{but}.")
    if any(row.layer_mean is not None for row in table.rows):
        notes.append(
            "Layer mean (%): visual tokens held, mean over the LLM's layers; a method that cuts inside the LLM holds "
            "all of them up to its cut."
        )
    if table.micro:
        notes.append(
            "Evidence kept (%): share of the visual tokens a question is about that the method keeps; known because "
            "the micro scenes are generated."
        )
    return notes


def _ends(values: set[str]) -> list[str]:
    ordered = sorted(values, key=lambda text: float(text[:-1]))
    return ordered if len(ordered) == 1 else [ordered[0], ordered[-1]]
