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
    return chosen, Data(chosen, data_folder(chosen, data), Store(store).pictures)


def data_folder(chosen: Experiment, data: Path | None) -> Path:
    """The folder of the experiment's data: micro's is made first, real data must all be there."""
    folder = _folder(chosen, data)
    if chosen.data != "micro":
        from harness.data.state import missing

        if faults := missing(chosen.benchmarks, folder):
            for fault in faults:
                print(f"retain: {fault}", file=sys.stderr)
            raise typer.Exit(MISTAKEN)
    return folder


def unpublished(chosen: Experiment, folder: Path) -> list[str]:
    """A sentence for each benchmark whose questions are not the published ones, though real ones are wanted."""
    from harness.benchmarks.witness import unlike

    if chosen.data == "micro":
        return []
    return [f"{name}: {'; '.join(said)}" for name in chosen.benchmarks if (said := unlike(name, folder))]


def check_given(data: Path) -> None:
    """UserError where a folder that was asked for is none."""
    if not data.is_dir():
        raise UserError(f"--data {data}: there is no such folder")


def rehearse(
    experiment: str, profile: str, limit: int | None, data: Path | None, store: Path, match: Match | None
) -> str:
    """What `retain run --dry-run` prints, also where data or weights are not there yet."""
    from harness import experiments
    from harness.estimate.dry_run import dry_run
    from harness.plan import Data
    from harness.store import Store

    chosen = experiments.load(experiment, profile, max_samples=limit, data=data, match=match)
    kept, folder = Store(store), _folder(chosen, data)  # for what real data lacks there, published numbers stand in
    with tempfile.TemporaryDirectory(prefix="retain-") as pictures:  # of the few samples that are looked at
        return dry_run(chosen, Data(chosen, folder, Path(pictures)) if folder.is_dir() else None, kept)


def _folder(chosen: Experiment, data: Path | None) -> Path:
    """The experiment's data folder: what was asked for, or else micro's, made now, or the place of real data."""
    if data is None and chosen.data == "micro":
        from harness.micro.editions import ensure

        return ensure(Path("results/data"))
    if data is None:
        from harness.data.sources import PAPER

        return PAPER
    check_given(data)
    if chosen.data == "micro":
        _check_micro(chosen, data)
    return data


def _check_micro(chosen: Experiment, data: Path) -> None:
    """UserError where a folder lacks the micro editions that are asked about: real data is not what stands in."""
    from harness.data.state import missing

    if not missing(chosen.benchmarks, data):
        return
    if made := sorted(path.parent for path in data.glob("micro-*/manifest.json")):
        raise UserError(f"--data {data} lacks micro data itself: pass --data {made[-1]}, which has it")
    raise UserError(
        f"--data {data} lacks micro data: leave --data out, or make it: "
        f"`retain micro data --root {data}` prints the folder to pass"
    )
