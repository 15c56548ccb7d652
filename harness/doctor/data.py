"""Is the data of each benchmark here, complete, and where does it go? Reads; unpacks and downloads nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from harness.doctor import hub as remote
from harness.doctor.check import Check, size
from harness.doctor.hub import Repository
from harness.experiments import Experiment
from model_wrappers.errors import UserError

AREA = "data"
HAND = {
    "NExT-QA-MC": "NExT-QA/test.csv and map_vid_vidorID.json; videos in NExT-QA/NExTVideo/",
    "NExT-QA-OE": "NExT-OE/test.csv and add_reference_answer_test.json; videos as those of NExT-QA-MC",
    "ActivityNet-QA": "ActivityNet-QA/test_q.json and test_a.json; videos in ActivityNet-QA/all_test/",
}
"""Where in the data folder lies what is placed by hand."""


def checks(experiments: list[Experiment], data: Path | None) -> tuple[list[Check], int]:
    """A line for each benchmark, and the bytes that are still to be got of those whose size the hub tells."""
    from harness.benchmarks.hub import REPOSITORIES

    if all(experiment.data == "micro" for experiment in experiments):
        return [Check(AREA, "micro editions", "ok", "are made in results/data by the first run")], 0
    names = list(dict.fromkeys(name for each in experiments if each.data is None for name in each.benchmarks))
    found, absent = [], {}
    for name in names:
        check = _local(name, data)
        if check.state == "missing" and name in REPOSITORIES and not _begun(name, data):
            absent[Repository("dataset", *REPOSITORIES[name])] = check
        else:
            found.append(check)
    total = 0
    for repository, told in remote.ask(list(absent)).items():
        check = absent[repository]
        said = f"the hub has it: {size(told.bytes)}" if not told.problem else told.problem
        total += told.bytes
        found.append(Check(AREA, check.name, "missing", f"{check.said}; {said}"))
    return sorted(found, key=lambda check: names.index(check.name)), total


def _begun(name: str, data: Path | None) -> bool:
    from harness.benchmarks.hub import snapshot

    return data is not None and snapshot(name, data) is not None


def _local(name: str, data: Path | None) -> Check:
    """What the data folder has of a benchmark."""
    from harness.benchmarks.hub import REPOSITORIES

    if data is None or not data.is_dir():
        where = "no data folder is given (--data)" if data is None else f"there is no folder {data}"
        return Check(AREA, name, "missing", f"{where}; it goes to {_place(name)}")
    try:
        if name in REPOSITORIES:
            told = _hub(name, data)
        elif name in HAND:
            told = _by_hand(name, data)
        else:
            told = _tsv(name, data)
    except UserError as error:
        return Check(AREA, name, "missing", str(error))
    return Check(AREA, name, "ok", told) if told else Check(AREA, name, "warning", "is not looked at before the run")


def _place(name: str) -> str:
    from harness.benchmarks.hub import REPOSITORIES

    if name in REPOSITORIES:
        return f"DATA/hub/datasets--{REPOSITORIES[name][0].replace('/', '--')}"
    return f"DATA/{HAND[name]}" if name in HAND else f"DATA/LMUData/{name}.tsv"


def _hub(name: str, data: Path) -> str:
    """Files of the hub, as `harness.benchmarks.hub` checks them; archives have an end, and none is half downloaded."""
    from harness.benchmarks import hub
    from harness.vlmevalkit import hub_cache

    repository, branch = hub.REPOSITORIES[name]
    folder = hub.check(name, data, download=False)
    assert folder is not None  # without `download`, check raises
    if partly := remote.half(Repository("dataset", repository, branch), hub_cache(data)):
        command = f"`hf download {repository} --repo-type dataset --revision {branch} --cache-dir {hub_cache(data)}`"
        raise UserError(f"{partly} files are half downloaded; {command} goes on with them")
    for archive in sorted(folder.rglob("*.zip")):
        if not zipfile.is_zipfile(archive):
            raise UserError(f"{archive} is no whole zip file: remove it and download it again")
    return f"{size(_bytes(folder))} in {folder.parent.parent.name}"


def _by_hand(name: str, data: Path) -> str:
    """Official files, read as the run reads them: every video that is asked about must be there."""
    from harness.benchmarks import benchmark
    from harness.vlmevalkit import kit

    entry = benchmark(name)
    cls = getattr(kit(entry.module), entry.class_name)
    for place in (base / folder for base in (data, data / "LMUData") for folder in cls.FOLDERS):
        if place.is_dir():
            rows = object.__new__(cls).read(place)
            videos = rows["video_path"].nunique()
            return f"{len(rows)} questions about {videos} videos, all there"
    raise UserError(f"there is no folder with its files; it goes to {data}/{HAND[name]}")


def _tsv(name: str, data: Path) -> str:
    """The TSV of an image benchmark; nothing of a data set of the kit that is read from elsewhere."""
    from harness.benchmarks import benchmark
    from harness.benchmarks.tsv import reads_tsv, source
    from harness.vlmevalkit import kit

    entry = benchmark(name, data)
    path = data / "LMUData" / f"{entry.kit_dataset}.tsv"
    cls = getattr(kit(entry.module), entry.class_name)
    if entry.modality == "video" or not reads_tsv(cls):
        return ""
    if not path.is_file():
        url = cls.DATASET_URL.get(entry.kit_dataset)
        raise UserError(f"{path} does not exist{f'; get it from {url}' if url else ''}")
    official = source(entry, cls, path)["official"]
    if official is False:
        raise UserError(f"{path} has not the md5 that VLMEvalKit knows: it is cut short or of another version")
    return f"{size(path.stat().st_size)}{', md5 as VLMEvalKit knows it' if official else ''}"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
