"""What a command says at its end: where its files are, what failed, what is lacking; and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.results import Lack
    from harness.sweep import SweepResult

FAILED, STOPPED, MISTAKEN = 3, 130, 2
SHOWN_FAILURES = 20


def braced(paths: Iterable[Path]) -> str:
    paths = list(paths)
    suffixes = ",".join(path.name.partition(".")[2] for path in paths)
    return f"{paths[0].parent / paths[0].name.partition('.')[0]}.{{{suffixes}}}"


def tell_failures(result: SweepResult) -> None:
    failures = result.failures
    print(f"\n{len(failures)} samples failed; they are asked again when the command is repeated:", file=sys.stderr)
    for failure in failures[:SHOWN_FAILURES]:
        where = f"{failure.model} {failure.benchmark} sample {failure.index}"
        print(f"  {where} ({failure.cells} cells): {failure.reason}", file=sys.stderr)
    if len(failures) > SHOWN_FAILURES:
        print(f"  and {len(failures) - SHOWN_FAILURES} more, each in its cell's predictions.jsonl", file=sys.stderr)


def tell_lacks(lacks: Sequence[Lack]) -> None:
    print(f"\n{len(lacks)} cells are incomplete; `retain run` answers what is missing.", file=sys.stderr)
    reasons = {
        (lack.cell.model, lack.cell.benchmark, index): reason
        for lack in lacks
        for index, reason in lack.reasons.items()
    }
    for (model, benchmark, index), reason in list(reasons.items())[:SHOWN_FAILURES]:
        print(f"  {model} {benchmark} sample {index} failed: {reason}", file=sys.stderr)
