"""Entries below a method that costs nothing to think of are marked, as rows of a table are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from harness.leaderboard.entry import SCOPES, Benchmark, Entry, Scope
from harness.tables.rows import FLOORS


def marked(entries: Sequence[Entry], benchmarks: Sequence[Benchmark]) -> list[Entry]:
    """The entries, each preservation with those of FLOORS that are above it at the same model and retention.

    A floor counts where it stands on the same benchmarks of that scope; several entries of one as their mean.
    """
    floors: dict[Any, list[float]] = defaultdict(list)
    for entry in entries:
        for scope in SCOPES if entry.method in FLOORS else ():
            if (value := entry.preservation[scope].value) is not None:
                floors[entry.method, *_peers(entry, scope, benchmarks)].append(value)
    done = []
    for entry in entries:
        kept = dict(entry.preservation)
        for scope, found in entry.preservation.items():
            if entry.bound or found.value is None:
                continue
            above = []
            for floor in FLOORS:
                given = floors.get((floor, *_peers(entry, scope, benchmarks)))
                if given and floor != entry.method and found.value < fmean(given):
                    above.append(floor)
            kept[scope] = found.model_copy(update={"below": above})
        done.append(entry.model_copy(update={"preservation": kept}))
    return done


def _peers(entry: Entry, scope: Scope, benchmarks: Sequence[Benchmark]) -> Any:
    """What two entries must have in common to be compared."""
    names = (each.name for each in benchmarks if each.name in entry.scores and scope in (each.modality, "all"))
    return entry.model, entry.retention, scope, frozenset(names)
