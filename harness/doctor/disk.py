"""Is there room for what a run downloads and writes?"""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.doctor.check import Check, State, size

AREA = "disk"
MARGIN = 1 << 30
"""Bytes that a run writes beside what it downloads: answers, plans, scores, tables."""


def checks(weights: int, sets: int, data: Path, store: Path) -> list[Check]:
    """A line for each file system that something goes to: `weights` bytes to the hub's cache, `sets` to `data`."""
    from huggingface_hub import constants

    wanted = [(Path(constants.HF_HUB_CACHE), weights, "weights"), (store, MARGIN, "answers"), (data, sets, "data")]
    needed: dict[int, list[tuple[Path, int, str]]] = {}
    for place, count, what in wanted:
        if count:
            at = _existing(place)
            needed.setdefault(at.stat().st_dev, []).append((at, count, what))
    found = []
    for parts in needed.values():
        place = parts[0][0]
        total, free = sum(count for _, count, _ in parts), shutil.disk_usage(place).free
        told = " and ".join(f"{size(count)} of {what}" for _, count, what in parts)
        state: State = "ok" if total <= free else "missing"
        found.append(Check(AREA, str(place), state, f"{told} to come, {size(free)} free"))
    return found


def _existing(place: Path) -> Path:
    place = place.expanduser().resolve()
    return place if place.exists() else _existing(place.parent)
