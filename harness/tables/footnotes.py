"""What a reader must know to read a table's numbers, as footnotes under it."""

from __future__ import annotations

from harness.statistics import FEWEST, RESAMPLES
from harness.tables.hard import hard_notes
from harness.tables.rows import BELOW, FLOORS, LOSS, MISSING, NOISE, RowResult, Table, loses_time, ratio
from model_wrappers.registry import method_class, method_names


def footnotes(table: Table) -> list[str]:
    """The footnotes of a table whose rows are complete."""
    notes = ["Avg.(%): mean over the benchmarks of score / score of vanilla."]
    cells = [(name, row.cells[name]) for row in table.rows for name in table.benchmarks if name in row.cells]
    if any(not cell.complete for _, cell in cells):
        notes.append(
            "incomplete (n of N): only n of N samples have an answer, and a verdict where a judge scores, so no score "
            "and no average is given."
        )
    elif any(average.value is None for row in table.rows for average in row.averages):
        notes.append(f"{MISSING} under Avg.(%): a benchmark is missing, or its samples are not those vanilla answered.")
    sizes = {name: cell.total for name, cell in cells if cell.total}
    if len(set(sizes.values())) == 1 and set(sizes) == set(table.benchmarks):
        notes.append(f"{next(iter(sizes.values()))} samples in each benchmark.")
    elif sizes:
        notes.append("Samples: " + ", ".join(f"{name} {size}" for name, size in sizes.items()) + ".")
    notes += _certainty_notes(table)
    notes += hard_notes(table)
    remarks: dict[str, list[str]] = {}
    for name, cell in cells:
        if cell.note and name not in remarks.setdefault(cell.note, []):
            remarks[cell.note].append(name)
    notes += [f"{', '.join(names)}: {remark}." for remark, names in remarks.items()]
    settings = {row.label: ", ".join(f"{name}={value}" for name, value in row.fields.items()) for row in table.rows}
    if said := "; ".join(f"{label} {values}" for label, values in settings.items() if values and "(" not in label):
        notes.append(f"Method settings: {said}.")
    notes += _token_notes(table)
    if any(loses_time(row, table.rows) for row in table.rows):
        notes.append(f"{LOSS}: time is lost; scoring and prefill take longer than vanilla's prefill on the same model.")
    return notes


def _certainty_notes(table: Table) -> list[str]:
    notes = []
    averages = [average for row in table.rows if row.method != "vanilla" for average in row.averages]
    if any(average.interval for average in averages):
        notes.append(
            f"[low, high]: 95% interval of the average, from {RESAMPLES} resamples of the videos and images that the "
            "questions are about, the same for every row."
        )
        if any(average.interval is None and average.value is not None for average in averages):
            notes.append(f"No interval where a benchmark has fewer than {FEWEST} videos or images.")
    if any(average.noise for average in averages):
        notes.append(
            f"{NOISE}: noise; the row cannot be told from the best one of its model and retention (bounds apart), as "
            "the 95% interval of their paired difference holds 0."
        )
    below = [floor for floor in FLOORS if any(floor in average.below for average in averages)]
    notes += [
        f"{BELOW}{FLOORS[floor]}: the average is below that of {floor} at the same model and retention."
        for floor in below
    ]
    if any(average.n < average.asked for average in averages):
        notes.append("n: samples behind the average; answered/asked where some have no answer.")
    elif any(average.asked for average in averages):
        notes.append("n: samples behind the average.")
    for row in table.rows:
        if row.seeds:
            numbers = ", ".join(str(seed.fields["seed"]) for seed in row.seeds)
            note = f"{row.label}: mean over seeds {numbers}, whose spread is in the interval; each is in the CSV."
            notes += [note] if note not in notes else []
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
        renumbered = dict.fromkeys(row.label for row in table.rows if _positions(row) == "renumber")
        but = f", but for {', '.join(renumbered)}" if renumbered else ""
        notes.append(f"Kept tokens keep their own positions{but}.")
    if any(row.layer_mean is not None for row in table.rows):
        notes.append(
            "Layers (%): visual tokens worked on, mean over the LLM's layers; a method that cuts inside the LLM works "
            "on more of them up to its cut."
        )
    if any(row.equivalent_tokens is not None for row in table.rows):
        notes.append("Equivalent tokens: visual tokens worked on, mean over the LLM's layers and the samples.")
    if table.micro:
        notes.append(
            "Evidence (%): share of the visual tokens a question is about that the method keeps; known because "
            "the micro scenes are generated."
        )
    return notes


def _positions(row: RowResult) -> object:
    """ "own" or "renumber": what the row's fields say, else its method's default; of a foreign row's method "own"."""
    default = method_class(row.method).positions if row.method in method_names() else "own"
    return row.fields.get("positions", default)


def _ends(values: set[str]) -> list[str]:
    ordered = sorted(values, key=lambda text: float(text[:-1]))
    return ordered if len(ordered) == 1 else [ordered[0], ordered[-1]]
