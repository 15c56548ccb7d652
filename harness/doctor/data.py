"""Is the data of each benchmark here, whole, and where does it go? Reads; unpacks and downloads nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.data.hub import snapshot
from harness.data.sources import PAPER, SOURCES, Source, tsv_address
from harness.data.state import State, archives, missing, state
from harness.doctor import hub as remote
from harness.doctor.check import Check, size
from harness.doctor.hub import Found, Repository
from harness.experiments import Experiment
from model_wrappers.errors import UserError

AREA = "data"
PACKED = (".zip", ".pkl")
"""Ends of a data set's archives, which are kept beside what is unpacked from them."""


def checks(experiments: list[Experiment], data: Path | None) -> tuple[list[Check], int]:
    """A line for each benchmark, and the bytes of disk that are still to be taken, of those whose size is known.

    `data`: None for the folder that a run takes then, `harness.data.sources.PAPER`.
    """
    if all(experiment.data == "micro" for experiment in experiments):
        return [_micro(experiments, data)], 0
    folder = data or PAPER
    names = list(dict.fromkeys(name for each in experiments if each.data is None for name in each.benchmarks))
    found: dict[str, Check] = {}
    absent: dict[Repository, State] = {}
    tables: list[State] = []
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
        if known.hub and there.lacks:
            absent[Repository("dataset", *known.hub)] = there
        elif known.tsv and there.lacks:
            tables.append(there)
        else:
            total += _bytes(known, there)
    for repository, told in remote.ask(list(absent)).items():
        there = absent[repository]
        known = SOURCES[there.benchmark]
        taken, room = _of_hub(known, there, told)
        total += room
        has = "the hub has it" if there.status == "missing" else "the hub has the rest"
        said = f"{has}: {size(taken)}" if not told.problem else told.problem
        if told.problem and known.gigabytes:
            said += f"; it is about {known.gigabytes:g} GB"
        found[there.benchmark] = Check(AREA, there.benchmark, "missing", f"{_sentence(there)}; {said}")
    for there, left in zip(tables, _of_servers(tables), strict=True):
        total += left or 0
        said = "its size is not known, as its server does not tell" if left is None else f"{size(left)} are to come"
        found[there.benchmark] = Check(AREA, there.benchmark, "missing", f"{_sentence(there)}; {said}")
    return [found[name] for name in names], total


def _micro(experiments: list[Experiment], data: Path | None) -> Check:
    made = "are made in results/data by the first run"
    if data is None:
        return Check(AREA, "micro editions", "ok", made)
    names = dict.fromkeys(name for each in experiments for name in each.benchmarks)
    if lacking := [name for name in names if missing([name], data)]:
        said = f"{data} lacks {', '.join(lacking)}; without --data they {made}"
        return Check(AREA, "micro editions", "missing", said)
    return Check(AREA, "micro editions", "ok", f"are in {data}")


def _of_hub(known: Source, there: State, told: Found) -> tuple[int, int]:
    """Bytes that are to be downloaded of a data set, and the room that these and what is unpacked from it take."""
    assert known.hub is not None
    folder = snapshot(*known.hub, there.data)
    if told.problem:
        here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder else 0
        whole = round((known.gigabytes or 0) * 1e9)
        return max(0, whole - here), max(0, whole - here) + (whole if known.unpacked else 0)
    left = {
        path: count
        for path, count in told.files.items()
        if folder is None or not (folder / path).is_file() or (folder / path).stat().st_size != count
    }
    packed = sum(count for path, count in told.files.items() if path.endswith(PACKED)) if known.unpacked else 0
    return sum(left.values()), sum(left.values()) + packed


def _of_servers(tables: list[State]) -> list[int | None]:
    """Bytes that TSVs lack, by what their servers say, all asked at once; None where one does not."""
    if not tables:
        return []
    addresses = [tsv_address(there.benchmark)[0] for there in tables]
    with ThreadPoolExecutor(len(tables)) as crew:
        sizes = list(crew.map(_length, addresses))
    places = [[there.folder / f"{SOURCES[there.benchmark].tsv}.tsv{end}" for end in ("", ".part")] for there in tables]
    got = [sum(path.stat().st_size for path in paths if path.is_file()) for paths in places]
    return [None if count is None else max(0, count - here) for count, here in zip(sizes, got, strict=True)]


def _length(url: str) -> int | None:
    """What a server says at once; `retain data` is more patient."""
    import requests

    try:
        answer = requests.head(
            url, headers={"Accept-Encoding": "identity"}, timeout=remote.TIMEOUT, allow_redirects=True
        )
    except requests.RequestException:
        return None
    length = answer.headers.get("Content-Length", "") if answer.ok else ""
    return int(length) if length.isdigit() else None


def _check(there: State) -> Check:
    """What is said of a benchmark. What only is to be unpacked is a warning, since the run does that itself; and so are
    questions from the hub that are not those which VLMEvalKit knows: it may have newer ones.

    Raises UserError where the run would, of files whose contents are not as they should be.
    """
    from harness.benchmarks import hub
    from harness.benchmarks.witness import unlike

    name = there.benchmark
    if there.lacks or there.by_hand:
        return Check(AREA, name, "missing", _sentence(there))
    hub.check(name, there.data)
    others = unlike(name, there.data)
    if others and not SOURCES[name].hub:
        raise UserError("; ".join(others))
    if there.packed:
        others.append(f"{_sentence(there)}, and so does the run")
    if others:
        return Check(AREA, name, "warning", "; ".join(others))
    return Check(AREA, name, "ok", f"is in {there.folder}")


def _sentence(there: State) -> str:
    """Without the benchmark's name, which has a column of its own."""
    return there.sentence.removeprefix(f"{there.benchmark}: ")


def _bytes(known: Source, there: State) -> int:
    """Of the files that a run needs and that are not here, and of what unpacking makes of the archives that are."""
    files = sum(file.size for file in known.files if file.needed and not (there.data / file.place).is_file())
    packed = [paths for paths, target in archives(known, there.data) if target in there.packed]
    return files + sum(path.stat().st_size for paths in packed for path in paths)
