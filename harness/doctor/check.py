"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Check:
    """`area`: packages, GPU, models, data, judge or disk. `name`: what was looked at. `said`: what was found, and
    how to get what is missing. A run would stop for what is `missing`, and would not for a `warning`.
    """

    area: str
    name: str
    state: State
    said: str


def size(count: float) -> str:
    """Bytes for people."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count:.0f} bytes"
