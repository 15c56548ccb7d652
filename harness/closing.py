"""What a command says at its end: where its files are, what failed, what is lacking; and its exit status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.results import Lack
    from harness.sweep import SweepResult

FAILED, STOPPED, MISTAKEN = 3, 130, 2
SHOWN_FAILURES = 20
ANSWERING = (["run"], ["compressor", "collect"])
"""Commands that keep each answer as it is given; repeated, they ask for the others."""
RESUMING = (["data"], ["micro", "train"], ["micro", "teach"], ["compressor", "train"], ["compressor", "ablate"])
"""Commands that keep no answers and go on where they were, too."""


def stopped(arguments: Sequence[str]) -> str:
    """What is said of a command that was stopped: what of it is kept, and how to go on."""
    again = shlex.join(["retain", *arguments])
    if _is_one(arguments, ANSWERING):
        return f"stopped; every answer given so far is kept. Go on with: {again}"
    return f"stopped. Go on with: {again}" if _is_one(arguments, RESUMING) else "stopped"


def refused(arguments: Sequence[str]) -> str:
    """What is added to the reason for which the disk refused: nothing where the command begins anew."""
    if _is_one(arguments, ANSWERING):
        return "; every answer written before is kept, the same command goes on from there"
    return "; the same command goes on from there" if _is_one(arguments, RESUMING) else ""


def _is_one(arguments: Sequence[str], commands: Iterable[Sequence[str]]) -> bool:
    return "--dry-run" not in arguments and any(list(arguments[: len(each)]) == each for each in commands)


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
