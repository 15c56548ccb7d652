"""The command `retain data`. Importing it loads nothing that it needs only when it downloads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from harness.data.fetch import Wanted
    from harness.data.state import State


def data(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BENCHMARK|EXPERIMENT]...", help="default: every benchmark of the paper"),
    ] = None,
    profile: Annotated[str, typer.Option(help="paper: the real data; micro: the generated one")] = "paper",
    data: Annotated[
        Path | None, typer.Option(help="where it is put (default: results/data/paper; micro: under results/data)")
    ] = None,
) -> None:
    """Get the benchmarks' data: say how much, download what can be, go on where it was cut, verify, unpack."""
    from harness.data.sources import PAPER

    if data is not None and data.exists() and not data.is_dir():
        raise UserError(f"--data {data}: not a folder")
    if profile == "micro":
        from harness.micro.editions import ensure

        print(f"The generated data is in {ensure(data or Path('results/data'))}.")
        return
    folder = data or PAPER
    chosen = _benchmarks(names or [], profile)
    if not get(chosen, folder):
        raise typer.Exit(2)
    print(f"All data is in {folder}: {', '.join(chosen)}.")


def get(benchmarks: list[str], folder: Path) -> bool:
    """Get what can be got of `benchmarks`, one after another; whether all of their data is there in the end.

    What is wrong, and what must be placed by hand, is told on stderr, a sentence each.
    """
    from harness.data.fetch import ask, check_room, fetch
    from harness.data.state import state

    wanted, faults = [], []
    states = [state(name, folder) for name in benchmarks]
    for name in (found.benchmark for found in states if found.lacks or found.packed or found.extras):
        try:
            wanted += [found] if (found := ask(name, folder)) is not None else []
        except UserError as error:
            faults.append(f"{name}: {error}")
    _tell(states, wanted, folder)
    if wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the data folder {folder} cannot be made ({error.strerror}); name another") from error
        check_room(wanted, folder)
    for each in wanted:
        try:
            fetch(each, folder)
        except UserError as error:
            faults.append(f"{each.source.benchmark}: {error}")
    told = {fault.partition(":")[0] for fault in faults}
    left = [state(name, folder) for name in benchmarks]
    faults += [found.sentence for found in left if found.by_hand and found.benchmark not in told]
    for fault in faults:
        print(f"retain: {fault}", file=sys.stderr)
    return not faults and all(found.status == "present" for found in left)


def _benchmarks(names: list[str], profile: str) -> list[str]:
    """The benchmarks meant: by their own names, or those of an experiment."""
    from harness import experiments
    from harness.data.sources import SOURCES

    found: list[str] = []
    for name in names or SOURCES:
        if name in SOURCES:
            found.append(name)
        elif name in experiments.experiment_names() or name.endswith((".yaml", ".yml")):
            found += experiments.load(name, profile).benchmarks
        else:
            known = f"{', '.join(SOURCES)}, or an experiment: {', '.join(experiments.experiment_names())}"
            raise UserError(f"{name!r} is no benchmark whose data can be got here; known are {known}")
    unknown = [name for name in found if name not in SOURCES]
    if unknown:
        print(f"retain: where the data of {', '.join(unknown)} comes from is not known here", file=sys.stderr)
    return [name for name in dict.fromkeys(found) if name in SOURCES]


def _tell(states: list[State], wanted: list[Wanted], folder: Path) -> None:
    """What is there, what will be downloaded and how much it is, before a byte of it is."""
    from harness.data.fetch import gigabytes

    if all(found.status == "present" for found in states):
        return
    sizes = {each.source.benchmark: each for each in wanted}
    print(f"Data in {folder}:")
    for found in states:
        each = sizes.get(found.benchmark)
        size = "" if each is None else "size unknown" if each.size is None else f"to get: {gigabytes(each.size)}"
        hand = "by hand: see below" if found.by_hand else ""
        print(f"  {found.benchmark:<15} {found.status:<8} {'  '.join(filter(None, (size, hand)))}".rstrip())
    for found in states:
        if found.ahead:
            print(f"  {found.benchmark}: {found.ahead}.")
    if wanted:
        total, room = sum(each.size or 0 for each in wanted), sum(each.room for each in wanted)
        print(f"  {gigabytes(total)} will be downloaded, {gigabytes(room)} of disk used; Ctrl-C, and it goes on later.")
    sys.stdout.flush()
