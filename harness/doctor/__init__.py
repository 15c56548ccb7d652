"""`retain doctor`: what a profile needs and what of it is there, before anything starts. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.doctor.check import Check

if TYPE_CHECKING:
    from harness.experiments import Experiment

__all__ = ["Check", "examine"]


def examine(experiments: list[Experiment], data: Path | None, store: Path) -> list[Check]:
    """Every check that some experiment needs, in the order in which a user would mend them."""
    from harness.data.sources import PAPER
    from harness.doctor import data as benchmarks
    from harness.doctor import disk, gpu, judges, models, packages

    found = packages.checks(experiments)
    if any(check.state == "missing" for check in found):
        return found  # the others need these packages
    checkpoints, to_download = models.checks(experiments, data)
    sets, sizes = benchmarks.checks(experiments, data)
    found += [*gpu.checks(experiments, data), *checkpoints, *sets, *judges.checks(experiments)]
    return [*found, *disk.checks(to_download, sizes, data or PAPER, store, disk.pictures(experiments))]
