"""The rows of a table compared two by two, as a CSV: one line a pair and average."""

from __future__ import annotations

import csv
import io

from harness.tables.rows import RowResult, Table

Line = dict[str, str | float | None]
KEYS = (
    *(f"{name}_{side}" for side in ("a", "b") for name in ("model", "method", "label", "retention")),
    *("average", "difference", "lo", "hi", "noise"),
    *("only_a", "only_b", "mcnemar_p", "tested", "samples", "clusters"),
)


def pairs(table: Table) -> list[Line]:
    """Every two rows over the same samples, as KEYS.

    average: the key of the average compared. difference: preservation of row a less that of row b, in points; lo, hi:
    its 95% interval; noise: 1 where that holds 0. only_a, only_b: samples that only this row answers right, and
    mcnemar_p the exact mid-p of McNemar's test on them, over the benchmarks in `tested`, whose answers are right or
    wrong. The test takes samples as independent: where `clusters` (videos, images) are fewer than `samples`, believe
    the interval. No p is corrected for the number of pairs.
    """
    lines = []
    for pair in table.pairs:
        line: Line = {**_naming(table.rows[pair.one], "a"), **_naming(table.rows[pair.other], "b")}
        line["average"] = table.groups[pair.group].key
        line["difference"] = pair.difference
        line["lo"], line["hi"] = (pair.interval.low, pair.interval.high) if pair.interval else (None, None)
        line["noise"] = None if pair.noise is None else int(pair.noise)
        line["only_a"], line["only_b"] = (pair.only_one, pair.only_other) if pair.tested else (None, None)
        line["mcnemar_p"] = pair.p
        line["tested"] = " ".join(pair.tested)
        line["samples"], line["clusters"] = pair.samples, pair.clusters or None
        lines.append(line)
    return lines


def to_csv(table: Table) -> str:
    """The lines of `pairs` under one header line; numbers with six significant digits."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, KEYS, lineterminator="\n")
    writer.writeheader()
    for line in pairs(table):
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in line.items()})
    return sink.getvalue()


def _naming(row: RowResult, side: str) -> Line:
    named: Line = {"model": row.model, "method": row.method, "label": row.label, "retention": row.retention}
    return {f"{name}_{side}": value for name, value in named.items()}
