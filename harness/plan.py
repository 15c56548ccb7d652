"""From an experiment to its cells: which answers are wanted, and every setting that each of them depends on.

Making a plan opens the benchmarks and looks at the methods, so it loads torch and vlmeval. A plan is therefore kept in
the store under a key of everything it was made from (experiment, code, checkpoint and data files by stamp, package
versions): the second time the same table is asked for, nothing heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import identity
from harness.experiments import Experiment, Row
from harness.store import Index, Store, StoreError, digest, write_atomically
from model_wrappers.errors import SampleError, UserError

HARNESS = Path(__file__).parent
DERIVED = ("LMUData/images",)
"""In a data folder: frames and images that VLMEvalKit decodes from the files beside them while samples are asked."""
NOT_PLANNED = {"max_samples", "title", "judge", "judges", "costs_at"}
"""What an experiment says of its table, on which no answer depends."""
REFUSED = ("FORCE_QWENVL_VIDEO_READER", "MODEL_SEQ_LEN")
"""Environment variables by which qwen_vl_utils changes the frames that a model sees: no setting may hide there."""


@dataclass(frozen=True)
class PlannedCell:
    """One cell of the table: a model, one of the experiment's rows at one keep, a benchmark, and the settings that make
    its id.
    """

    model: str
    row: int
    keep: float
    benchmark: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """All cells of an experiment and, by benchmark, the samples that each of them answers.

    `samples`: their indices, in order. `clusters`: for each of them, in the same order, the video or image that it is
    about, which is what samples of one benchmark may share.
    """

    experiment: Experiment
    cells: list[PlannedCell]
    samples: dict[str, list[Index]]
    clusters: dict[str, list[str]]

    def of(self, model: str, benchmark: str) -> list[PlannedCell]:
        """The cells of one model on one benchmark, vanilla first (its response serves the methods that score a
        response).
        """
        found = [cell for cell in self.cells if cell.model == model and cell.benchmark == benchmark]
        return sorted(found, key=lambda cell: self.experiment.rows[cell.row].method != "vanilla")

    def rows(self) -> Iterator[tuple[str, Row, float, list[PlannedCell]]]:
        """Model, row, keep and cells of each line of the table, in its order."""
        for model in self.experiment.models:
            for number, row in enumerate(self.experiment.rows):
                for keep in row.keep:
                    key = (model, number, keep)
                    yield model, row, keep, [cell for cell in self.cells if (cell.model, cell.row, cell.keep) == key]


class Data:
    """The benchmarks of one experiment in one data folder, each opened once for a number of frames, when needed."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.experiment, self.folder = experiment, folder
        self._opened: dict[tuple[str, int | None], Any] = {}
        self._evidence: dict[str, dict[str, Any]] = {}

    def open(self, name: str, frames: int | None = None) -> Any:
        """The `OpenBenchmark` called `name` with so many frames a video (default: the experiment's; images have none).

        Raises UserError when its data is missing or malformed.
        """
        from harness.benchmarks import benchmark, open_benchmark

        frames = frames or self.experiment.frames
        key = (name, None if benchmark(name, self.folder).modality == "image" else frames)
        if key not in self._opened:
            self._opened[key] = open_benchmark(name, self.folder, frames)
        return self._opened[key]

    def evidence(self, name: str) -> dict[str, Any]:
        """By index (as text) the part of its scene that a question is about, see `harness.evidence`; {} where nobody
        knows it.
        """
        if name not in self._evidence:
            path = self.folder / "evidence" / f"{name}.json"
            try:
                self._evidence[name] = json.loads(path.read_text("utf-8"))
            except FileNotFoundError:
                self._evidence[name] = {}
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read: {error}") from error
        return self._evidence[name]


def make(experiment: Experiment, data: Data, store: Store) -> Plan:
    """The plan of an experiment: from the store where one was made from the very same inputs, else made anew and kept
    there.

    Raises UserError for data, checkpoints or methods that cannot be used.
    """
    for name in REFUSED:
        if name in os.environ:
            raise UserError(f"the environment variable {name} would change what a model sees; unset it")
    path = store.root / "plans" / f"{_key(experiment, data.folder)}.json"
    plan = _load(path, experiment) or _resolve(experiment, data)
    # Opening a benchmark may unpack files, so the stamp to keep it under is taken afterwards.
    path = store.root / "plans" / f"{_key(experiment, data.folder)}.json"
    if not path.exists():
        cells = [dataclasses.asdict(cell) for cell in plan.cells]
        content = {"samples": plan.samples, "clusters": plan.clusters, "cells": cells}
        write_atomically(path, json.dumps(content, ensure_ascii=False))
    limit = experiment.max_samples
    samples = {name: indices[:limit] for name, indices in plan.samples.items()}
    clusters = {name: names[:limit] for name, names in plan.clusters.items()}
    return dataclasses.replace(plan, samples=samples, clusters=clusters)


def open_settings(experiment: Experiment, model: str) -> dict[str, Any]:
    """What an experiment says to `harness.models.open_model` about a model, beyond the model's own entry."""
    settings: dict[str, Any] = {"dtype": experiment.dtype, "attn_implementation": experiment.attention}
    if experiment.max_new_tokens is not None:
        settings["max_new_tokens"] = experiment.max_new_tokens
    return settings | experiment.settings_of(model)


def _load(path: Path, experiment: Experiment) -> Plan | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; remove it to have it made anew") from error
    cells = [PlannedCell(**cell) for cell in content["cells"]]
    return Plan(experiment, cells, content["samples"], content["clusters"])


def _key(experiment: Experiment, data: Path) -> str:
    """Digest of all that a plan is made from, without loading any of it."""
    from harness.models import model_info

    models = {}
    for name in experiment.models:
        folder = Path(model_info(name).path_or_hub_id)
        models[name] = identity.folder_stamp(folder) if folder.is_dir() else str(model_info(name).revision)
    inputs = {
        "experiment": experiment.model_dump(
            mode="json", exclude={"max_samples", "title", "judge", "judges", "costs_at"}
        ),
        "compressors": [_stamp_of(value) for row in experiment.rows for value in row.fields.values()],
        "models": models,
        "data": [str(data), identity.folder_stamp(data, leave_out=DERIVED)],
        "code": identity.code_stamp(HARNESS, HARNESS.parent / "model_wrappers"),
        "versions": identity.versions(),
        "python": platform.python_version(),
        "devices": [
            *sorted(path.name for path in Path("/dev").glob("nvidia*")),
            os.environ.get("CUDA_VISIBLE_DEVICES"),
        ],
        "methods": identity.plugins(),
    }
    return digest(inputs)[:24]


def _stamp_of(value: Any) -> str:
    return identity.folder_stamp(Path(value)) if isinstance(value, str) and Path(value).is_dir() else str(value)


def _resolve(experiment: Experiment, data: Data) -> Plan:
    from harness.models import model_info

    infos = {name: model_info(name) for name in experiment.models}
    model_parts = {name: _model_settings(experiment, info) for name, info in infos.items()}
    opened = {name: data.open(name) for name in experiment.benchmarks}
    benchmarks = {name: _benchmark_settings(data, name) for name in experiment.benchmarks}
    cells = []
    for model, info in infos.items():
        for number, row in enumerate(experiment.rows):
            method_part = _method_settings(row, info)
            for keep in row.keep:
                for name in experiment.benchmarks:
                    frames = None if opened[name].modality == "image" else experiment.frames_of(model)
                    cut = {"method": method_part, "keep": keep}
                    settings = {**model_parts[model], **cut, "frames": frames, "benchmark": benchmarks[name]}
                    cells.append(PlannedCell(model, number, keep, name, settings))
    samples = {name: each.indices for name, each in opened.items()}
    return Plan(experiment, cells, samples, {name: each.clusters for name, each in opened.items()})


def _benchmark_settings(data: Data, name: str) -> dict[str, Any]:
    """Name, data digest and prompt digest; the data folder's own place is left out of the prompts.

    The prompts are those of a model that reads video files: one that takes frames gets the same words, and its frames
    follow from the data and the number of frames.
    """
    opened = data.open(name)
    prompts = []
    for position in range(len(opened)):
        try:
            message = opened.message(position)
        except (SampleError, UserError) as error:
            message = str(error)  # a sample that cannot be asked: the sweep records why
        prompts.append(json.dumps(message, sort_keys=True, default=str).replace(str(data.folder.resolve()), ""))
    evidence = data.evidence(name)
    return {
        "name": name,
        "kit_dataset": opened.dataset.dataset_name,
        "data": opened.digest,
        "prompts": digest(prompts),
        "evidence": digest([evidence, identity.code_digest(["harness.evidence"])]) if evidence else None,
    }


def _model_settings(experiment: Experiment, info: Any) -> dict[str, Any]:
    import torch

    folder = Path(info.path_or_hub_id)
    if folder.is_dir():  # by content, wherever it lies
        source = {"name": folder.name, "files": identity.checkpoint_digest(folder)}
    else:
        source = {"name": info.name, "hub": info.path_or_hub_id, "revision": info.revision}
    return {
        "model": {**source, "family": info.family},
        "attention": experiment.attention,
        "dtype": experiment.dtype,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "generation": {**info.defaults, **open_settings(experiment, info.name)},
        "versions": {**identity.versions(), "retain": identity.retain_version()},
    }


def _method_settings(row: Row, info: Any) -> dict[str, Any]:
    """Name, every field with its default, the compressor's files where there is one, and the code that runs."""
    from model_wrappers.families import FAMILIES
    from model_wrappers.registry import method

    made = method(row.method, **row.fields)
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    family = f"model_wrappers.families.{FAMILIES[info.family][0]}"
    modules = ["model_wrappers.compression", family, type(made).__module__]
    settings: dict[str, Any] = {
        "name": row.method,
        "fields": fields,
        "positions": made.positions,
        "code": identity.code_digest(modules),
    }
    if "compressor" in fields:
        folder = Path(fields["compressor"] or info.path_or_hub_id)
        found = [folder] if fields["compressor"] else sorted(folder.glob("compressor-*"))
        settings["compressor"] = {path.name: identity.folder_digest(path) for path in found if path.is_dir()}
    return settings
