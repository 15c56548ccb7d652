"""Is the data of each benchmark here, whole, and where does it go? Reads; unpacks and downloads nothing."""

from __future__ import annotations

from pathlib import Path

from harness.data.sources import PAPER, SOURCES, Source
from harness.data.state import State, archives, state
from harness.doctor import hub as remote
from harness.doctor.check import Check, size
from harness.doctor.hub import Repository
from harness.experiments import Experiment
from model_wrappers.errors import UserError

AREA = "data"


def checks(experiments: list[Experiment], data: Path | None) -> tuple[list[Check], int]:
    """A line for each benchmark, and the bytes of disk that are still to be taken, of those whose size is known.

    `data`: None for the folder that a run takes then, `harness.data.sources.PAPER`.
    """
    if all(experiment.data == "micro" for experiment in experiments):
        return [Check(AREA, "micro editions", "ok", "are made in results/data by the first run")], 0
    folder = data or PAPER
    names = list(dict.fromkeys(name for each in experiments if each.data is None for name in each.benchmarks))
    found: dict[str, Check] = {}
    absent: dict[Repository, State] = {}
    total = 0
    for name in names:
        if name not in SOURCES:
            found[name] = Check(AREA, name, "warning", "is not looked at before the run")
            continue
        try:
            there = state(name, folder)
            found[name] = _check(there)
        except UserError as error:
            found[name] = Check(AREA, name, "missing", str(error))
            continue
        known = SOURCES[name]
        if known.hub and there.status == "missing":
            absent[Repository("dataset", *known.hub)] = there
        else:
            total += _bytes(known, there)
    for repository, told in remote.ask(list(absent)).items():
        there = absent[repository]
        known = SOURCES[there.benchmark]
        taken = told.bytes if not told.problem else round((known.gigabytes or 0) * 1e9)
        total += taken * (2 if known.unpacked else 1)
        said = f"the hub has it: {size(taken)}" if not told.problem else told.problem
        if told.problem and taken:
            said += f"; it is about {known.gigabytes:g} GB"
        found[there.benchmark] = Check(AREA, there.benchmark, "missing", f"{_sentence(there)}; {said}")
    return [found[name] for name in names], total


def _check(there: State) -> Check:
    """What is said of a benchmark. What only is to be unpacked is a warning, since the run does that itself.

    Raises UserError where the run would, of files whose contents are not as they should be.
    """
    from harness.benchmarks import hub

    name = there.benchmark
    if there.lacks or there.by_hand:
        return Check(AREA, name, "missing", _sentence(there))
    hub.check(name, there.data)
    if SOURCES[name].tsv:
        _check_md5(name, there.folder / f"{SOURCES[name].tsv}.tsv")
    if there.packed:
        return Check(AREA, name, "warning", f"{_sentence(there)}, and so does the run")
    return Check(AREA, name, "ok", f"is in {there.folder}")


def _check_md5(name: str, path: Path) -> None:
    """A TSV that was placed by hand has no other witness; the run takes it as it is."""
    from harness.benchmarks import benchmark
    from harness.benchmarks.tsv import source
    from harness.vlmevalkit import kit

    entry = benchmark(name)
    if source(entry, getattr(kit(entry.module), entry.class_name), path)["official"] is False:
        raise UserError(f"{path} has not the md5 that VLMEvalKit knows: it is cut short or of another version")


def _sentence(there: State) -> str:
    """Without the benchmark's name, which has a column of its own."""
    return there.sentence.removeprefix(f"{there.benchmark}: ")


def _bytes(known: Source, there: State) -> int:
    """Of the files that a run needs and that are not here, and of what unpacking makes of the archives that are."""
    files = sum(file.size for file in known.files if file.needed and not (there.data / file.place).is_file())
    packed = [paths for paths, target in archives(known, there.data) if target in there.packed]
    return files + sum(path.stat().st_size for paths in packed for path in paths)
