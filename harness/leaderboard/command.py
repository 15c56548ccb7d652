"""The command `retain leaderboard`. Importing it loads nothing that it needs only when it gathers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.closing import FAILED, braced
from harness.matching import MATCHED
from harness.opening import open_experiment
from harness.options import DEFAULT_STORE, DataOption, LimitOption, MatchOption, ProfileOption, StoreOption
from model_wrappers.errors import UserError


def leaderboard(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="default: the tables in STORE that go together"),
    ] = None,
    profile: ProfileOption = "micro",
    limit: LimitOption = None,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="where it is written (default: STORE/leaderboard)")] = None,
    match: MatchOption = None,
) -> None:
    """Put experiments' tables together, one row a (model, method, keep), as CSV, JSON and HTML; nothing is asked."""
    from harness import plan as plans
    from harness import results
    from harness.experiments import experiment_names, load
    from harness.leaderboard.gather import Gathering
    from harness.leaderboard.write import to_markdown, write
    from harness.store import Store

    kept = Store(store)
    gathering = Gathering(kept)
    end = MATCHED if match else ""
    made = [name for name in experiment_names() if (store / "tables" / f"{name}{end}.csv").is_file()]
    made = [name for name in made if load(name, profile, data=data, match=match).match == match]
    if not (names or made):
        raise UserError(f"there is no table in {store / 'tables'} yet; `retain run` makes them")
    for name in names or made:
        chosen, opened = open_experiment(name, profile, limit, data, store, match)
        plan = plans.make(chosen, opened, kept)
        found = results.collect(plan, opened, kept)
        if not names and (said := gathering.conflict(plan, found)):
            print(f"retain: left out: {said}", file=sys.stderr)
            continue
        gathering.add(plan, found, opened)
    board = gathering.leaderboard()
    print(to_markdown(board), end="")
    print(f"\nWritten: {braced(write(board, out or store / f'leaderboard{end}'))}")
    if not all(entry.complete for entry in board.entries):
        raise typer.Exit(FAILED)
