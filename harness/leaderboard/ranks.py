"""Equal budgets, ranks, and the order of a leaderboard.

Methods are compared at what they cost, not at the ratio asked for: with FastV at 25% the layers work on more visual
tokens than with a cut to 25% at the input. Entries whose layers work on about the same share are one budget.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from harness.leaderboard.entry import Entry

TOLERANCE = 0.02
"""Shares of the visual tokens this close together are one budget: rounding to whole tokens moves them by about that
much."""


def ranked(entries: Iterable[Entry]) -> list[Entry]:
    """The entries with budget, rank and mean rank, largest budget first, best preservation first within it.

    Entries without a share or without a preservation come last in their turn. Equal preservations share a rank.
    """
    placed = _with_budgets(list(entries))
    ranks = _ranks(placed)
    by_method: dict[Any, list[int]] = defaultdict(list)
    for entry, rank in zip(placed, ranks, strict=True):
        if rank is not None:
            by_method[_method(entry)].append(rank)
    done = []
    for entry, rank in zip(placed, ranks, strict=True):
        mean = fmean(by_method[_method(entry)]) if rank is not None else None
        done.append(entry.model_copy(update={"rank": rank, "mean_rank": mean}))
    return sorted(done, key=_order)


def _with_budgets(entries: list[Entry]) -> list[Entry]:
    """From the largest share down: a budget begins at a share that lies more than `TOLERANCE` below the last one's."""
    shares = sorted({entry.layer_share for entry in entries if entry.layer_share is not None}, reverse=True)
    groups: list[list[float]] = []
    for share in shares:
        if groups and groups[-1][0] - share <= TOLERANCE:
            groups[-1].append(share)
        else:
            groups.append([share])
    budgets = {share: round(100 * fmean(group)) for group in groups for share in group}
    return [
        entry if entry.layer_share is None else entry.model_copy(update={"budget": budgets[entry.layer_share]})
        for entry in entries
    ]


def _ranks(entries: Sequence[Entry]) -> list[int | None]:
    """Of each entry among those of its model, budget and set of benchmarks."""
    peers: dict[Any, list[float]] = defaultdict(list)
    for entry in entries:
        if (value := _ranked_by(entry)) is not None:
            peers[_field(entry)].append(value)
    ranks: list[int | None] = []
    for entry in entries:
        value = _ranked_by(entry)
        ranks.append(None if value is None else 1 + sum(other > value for other in peers[_field(entry)]))
    return ranks


def _ranked_by(entry: Entry) -> float | None:
    return None if entry.bound or entry.budget is None else entry.preservation["all"].value


def _field(entry: Entry) -> Any:
    return entry.model, entry.budget, frozenset(entry.scores)


def _method(entry: Entry) -> Any:
    return entry.method, tuple(sorted(entry.fields.items())), entry.retention


def _order(entry: Entry) -> tuple[float, ...]:
    value = entry.preservation["all"].value
    return entry.budget is None, -(entry.budget or 0), value is None, -(value or 0.0)
