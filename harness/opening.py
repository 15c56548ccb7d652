"""What a command is told, made into an experiment and its data. Its mistakes are said before a model is loaded."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from harness.closing import MISTAKEN
from harness.matching import Match
from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from harness.experiments import Experiment
    from harness.plan import Data


def open_experiment(
    experiment: str, profile: str, limit: int | None, data: Path | None, store: Path, match: Match | None = None
) -> tuple[Experiment, Data]:
    """The checked experiment and its data folder: micro's is made first, real data must all be there."""
    from harness import experiments
    from harness.plan import Data
    from harness.store import Store

    chosen = experiments.load(experiment, profile, max_samples=limit, data=data, match=match)
    if data is None and chosen.data == "micro":
        from harness.micro.editions import ensure

        data = ensure(Path("results/data"))
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: there is no such folder")
    if chosen.data != "micro":
        from harness.data.sources import PAPER
        from harness.data.state import missing

        data = data or PAPER
        if faults := missing(chosen.benchmarks, data):
            for fault in faults:
                print(f"retain: {fault}", file=sys.stderr)
            raise typer.Exit(MISTAKEN)
    assert data is not None
    return chosen, Data(chosen, data, Store(store).pictures)


def rehearse(
    experiment: str, profile: str, limit: int | None, data: Path | None, store: Path, match: Match | None
) -> str:
    """What `retain run --dry-run` prints, also where data or weights are not there yet."""
    from harness import experiments
    from harness.data.sources import PAPER
    from harness.estimate.dry_run import dry_run
    from harness.plan import Data
    from harness.store import Store

    chosen = experiments.load(experiment, profile, max_samples=limit, data=data, match=match)
    kept = Store(store)
    folder = data or PAPER  # what is lacking there is no mistake here: published numbers stand in for it
    if chosen.data == "micro" or (data is not None and not data.is_dir()):
        folder = open_experiment(experiment, profile, limit, data, store, match)[1].folder
    with tempfile.TemporaryDirectory(prefix="retain-") as pictures:  # of the few samples that are looked at
        return dry_run(chosen, Data(chosen, folder, Path(pictures)) if folder.is_dir() else None, kept)
