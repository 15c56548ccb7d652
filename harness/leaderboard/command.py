"""The command `retain leaderboard`. Importing it loads nothing that it needs only when it gathers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.closing import FAILED, braced, tell_lacks
from harness.disk import check_folder
from harness.matching import MATCHED
from harness.opening import open_experiment
from harness.options import DEFAULT_STORE, DataOption, LimitOption, MatchOption, ProfileOption, StoreOption
from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from harness.results import Lack


def leaderboard(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="default: the tables in STORE that go together"),
    ] = None,
    profile: ProfileOption = "micro",
    limit: LimitOption = None,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[
        Path | None,
        typer.Option(help="folder that leaderboard.csv, .json and .html are written to (default: STORE/leaderboard)"),
    ] = None,
    match: MatchOption = None,
) -> None:
    """Put experiments' tables together, one row a (model, method, keep), as CSV, JSON and HTML; nothing is asked."""
    from harness import plan as plans
    from harness import results
    from harness.experiments import load, names_with
    from harness.leaderboard.gather import Gathering
    from harness.leaderboard.write import to_markdown, write
    from harness.store import Store, digest

    kept = Store(store)
    gathering = Gathering(kept)
    end = MATCHED if match else ""
    joined = names or [name for name in names_with(profile) if (store / "tables" / f"{name}{end}.csv").is_file()]
    # All are read before the first is opened, so that a mistake in the last is told at once.
    loaded = {name: load(name, profile, max_samples=limit, data=data, match=match) for name in joined}
    joined = [name for name in joined if names or loaded[name].match == match]
    if not joined:
        raise UserError(f"there is no table in {store / 'tables'} yet; `retain run` makes them")
    check_folder(out or store, "--out" if out else "--store")
    lacks: dict[str, Lack] = {}
    for name in joined:
        chosen, opened = open_experiment(name, profile, limit, data, store, match)
        plan = plans.make(chosen, opened, kept)
        found = results.collect(plan, opened, kept)
        if not names and (said := gathering.conflict(plan, found)):
            print(f"retain: left out: {said}", file=sys.stderr)
            continue
        gathering.add(plan, found, opened)
        lacks |= {digest(lack.cell.settings): lack for lack in found.lacks}  # a cell of two tables lacks once
    board = gathering.leaderboard()
    print(to_markdown(board), end="")
    print(f"\nWritten: {braced(write(board, out or store / f'leaderboard{end}'))}")
    if lacks:
        tell_lacks(list(lacks.values()))
        raise typer.Exit(FAILED)
