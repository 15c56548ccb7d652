"""The command `retain doctor`. Importing it loads nothing that it needs only when it looks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.options import RayOption

LACKING = 1
"""Exit status where something that is needed is missing."""


def doctor(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="default: every experiment that has the profile"),
    ] = None,
    profile: Annotated[str, typer.Option(help="which profile of the experiments: micro or paper")] = "micro",
    data: Annotated[
        Path | None,
        typer.Option(help="folder of the data (default: results/data/paper; micro: results/data)"),
    ] = None,
    store: Annotated[Path, typer.Option(help="where predictions, scores and tables lie")] = Path("results/runs"),
    before_data: Annotated[
        bool, typer.Option("--before-data", help="fail only for what `retain data` is not about to see to")
    ] = False,
    ray: RayOption = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Say what a profile needs and what of it is missing: packages, GPU, models, data, judges, disk."""
    from harness import experiments
    from harness.doctor import data as of_data
    from harness.doctor import examine, gpu, report
    from harness.doctor import judges as of_judges
    from harness.opening import check_given
    from harness.results import account_of, check_judges
    from harness.store import Store
    from harness.sweep import cluster

    if ray is not None:
        cluster.check(ray)
    chosen = names or experiments.names_with(profile)
    loaded = [experiments.load(name, profile, data=data) for name in chosen]
    if data is not None and (data.exists() or all(experiment.data == "micro" for experiment in loaded)):
        check_given(data)  # real data may be still to come: the report says what, and `retain data` makes the folder
    found = examine(loaded, data, store)
    if ray not in (None, cluster.AUTO):
        found = gpu.of_a_cluster(found)
    if json:
        print(report.to_json(profile, found), end="")
    else:
        report.show(found)
    lacking = [check for check in found if check.state == "missing"]
    if before_data:
        # A run whose judge is down or retired keeps its answers, so it begins; without a key it does not.
        lacking = [check for check in lacking if check.area not in (of_data.AREA, of_judges.AREA)]
        kept = Store(store)
        for experiment in loaded:
            check_judges(experiment, kept, account_of(experiment, kept))
        if lacking:
            said = ", ".join(f"{check.name} ({check.area})" for check in lacking)
            print(
                f"retain: no data is downloaded while this is missing: {said}; `retain data` gets it all the same",
                file=sys.stderr,
            )
    if lacking:
        raise typer.Exit(LACKING)
