"""Are the checkpoints here, whole and pinned, and a compressor for each row that takes one?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.data.hub import half
from harness.data.sources import PAPER
from harness.doctor import hub
from harness.doctor.check import Check, size
from harness.doctor.hub import Repository
from harness.experiments import Experiment
from model_wrappers.errors import UserError
from model_wrappers.hub import cached

AREA = "models"
WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja")
"""Files of a checkpoint that are downloaded, as `model_wrappers.families.checkpoint.find_checkpoint` has them."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def checks(experiments: list[Experiment], data: Path | None) -> tuple[list[Check], int]:
    """A line for each checkpoint and for each compressor; and the bytes that a run would download for them."""
    from huggingface_hub import constants

    from harness.plan import info_of

    found: list[Check] = []
    infos: dict[tuple[str, str | None], Any] = {}
    for experiment in experiments:
        for model in experiment.models:
            try:
                info = info_of(experiment, model)
            except UserError as error:
                found.append(Check(AREA, model, "missing", str(error)))
                continue
            infos[model, info.revision] = info
    absent = {}
    for info in infos.values():
        check = _here(info)
        if check is None:
            absent[Repository("model", info.path_or_hub_id, info.revision, WANTED)] = info
        else:
            found.append(check)
    download = 0
    for repository, told in hub.ask(list(absent)).items():
        if told.problem:
            said = f"{repository.name} is not in the hub's cache, and {told.problem}"
            found.append(Check(AREA, absent[repository].name, "missing", said))
            continue
        download += told.bytes
        partly = half(repository.name, repository.kind, Path(constants.HF_HUB_CACHE))
        said = f"{size(told.bytes)} are downloaded on first use{f'; {partly} files are half here' if partly else ''}"
        found.append(Check(AREA, absent[repository].name, "warning", said))
    found += [_unpinned(info) for info in infos.values() if info.revision and not _COMMIT.fullmatch(info.revision)]
    return list(dict.fromkeys([*found, *_compressors(experiments, data)])), download


def _here(info: Any) -> Check | None:
    """What is on this machine of a checkpoint; None where nothing is, or not all."""
    from model_wrappers.families.checkpoint import check_checkpoint

    if info.revision is None:
        return Check(AREA, info.name, "ok", "its folder is whole")
    folder = cached(info.path_or_hub_id, info.revision)
    if folder is None:
        return None
    try:
        check_checkpoint(folder)
    except UserError as error:
        # find_checkpoint takes what the cache has: it would not be completed by the run.
        command = f"`hf download {info.path_or_hub_id} --revision {info.revision}`"
        return Check(AREA, info.name, "missing", f"is in the hub's cache in part; {command} completes it: {error}")
    return Check(AREA, info.name, "ok", f"in the hub's cache at {info.revision[:12]}, whole")


def _unpinned(info: Any) -> Check:
    said = f"{info.revision} is no commit, so it may move: pin one as `revision` under the profile's `model_settings`"
    return Check(AREA, f"{info.name} revision", "warning", said)


def _compressors(experiments: list[Experiment], data: Path | None) -> list[Check]:
    """For each model, method that takes a compressor and kind of media."""
    from harness.benchmarks import benchmark
    from harness.compressor.chosen import method_of, untaught
    from harness.plan import info_of
    from model_wrappers.compressor.hub import hub_id

    found = []
    folder = data or PAPER
    for experiment in experiments:
        for model in experiment.models:
            for row in experiment.rows:
                made: Any = method_of(experiment, model, row, folder)
                if not hasattr(made, "compressor"):
                    continue
                for shows in sorted({benchmark(name, data).modality for name in experiment.benchmarks}):
                    name = f"{Path(model).name} compressor, {shows}s"
                    place = made.compressor and hub_id(made.compressor)
                    if place:
                        found.append(_hub_compressor(name, *place))
                        continue
                    try:
                        lacking = untaught(made, info_of(experiment, model), shows, folder)
                    except UserError as error:
                        found.append(Check(AREA, name, "missing", str(error)))
                    else:
                        told = f"its rows show a dash there: {lacking}" if lacking else "is there"
                        found.append(Check(AREA, name, "ok", told))
    return found


def _hub_compressor(name: str, repository: str, revision: str | None) -> Check:
    asked = Repository("model", repository, revision)
    if cached(repository, revision):
        return Check(AREA, name, "ok", f"{repository} is in the hub's cache")
    told = hub.ask([asked])[asked]
    if told.problem:
        return Check(AREA, name, "missing", f"{repository} is not in the hub's cache, and {told.problem}")
    return Check(AREA, name, "warning", f"{repository} is downloaded on first use ({size(told.bytes)})")
