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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import identity
from harness.disk import StoreError, write_atomically
from harness.experiments import Experiment, Row
from harness.store import Index, Store, digest
from model_wrappers.errors import SampleError, UserError

HARNESS = Path(__file__).parent
DERIVED = ("LMUData/images", "hub/*/blobs")
"""In a data folder: frames and images that were decoded from the files beside them while samples were asked, and what
the hub's cache shows a second time under the files' own names."""
NOT_PLANNED = {"max_samples", "title", "judge", "judges", "costs_at"}
"""What an experiment says of its table, on which no answer depends."""
REFUSED = ("FORCE_QWENVL_VIDEO_READER", "MODEL_SEQ_LEN")
"""Environment variables by which qwen_vl_utils changes the frames that a model sees: no setting may hide there."""


@dataclass(frozen=True)
class PlannedCell:
    """One cell of the table: a model, one of the experiment's rows at one keep, a benchmark, and the settings that make
    its id. `retention` is the ratio that the row gives; `keep` is another one where the experiment matches budgets.
    """

    model: str
    row: int
    keep: float
    benchmark: str
    settings: dict[str, Any]
    retention: float


@dataclass(frozen=True)
class Undefined:
    """Where there is no cell: the method of a row is not defined for what a benchmark shows to a model, and why."""

    model: str
    row: int
    benchmark: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All cells of an experiment and, by benchmark, the samples that each of them answers.

    `samples`: their indices, in order. `clusters`: for each of them, in the same order, the video or image that it is
    about, which is what samples of one benchmark may share. `undefined`: where there is nothing to run.
    """

    experiment: Experiment
    cells: list[PlannedCell]
    samples: dict[str, list[Index]]
    clusters: dict[str, list[str]]
    undefined: list[Undefined] = field(default_factory=list)

    def of(self, model: str, benchmark: str) -> list[PlannedCell]:
        """The cells of one model on one benchmark, vanilla first (its response serves the methods that score a
        response).
        """
        found = [cell for cell in self.cells if cell.model == model and cell.benchmark == benchmark]
        return sorted(found, key=lambda cell: self.experiment.rows[cell.row].method != "vanilla")

    def left_out(self) -> list[str]:
        """What is not run and why, a sentence for each method and reason."""
        found: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
        for each in self.undefined:
            key = (self.experiment.rows[each.row].method, each.reason)
            models, benchmarks = found.setdefault(key, ({}, {}))
            models[Path(each.model).name], benchmarks[each.benchmark] = None, None
        return [
            f"{method} is not run for {', '.join(models)} on {', '.join(benchmarks)}: {reason}"
            for (method, reason), (models, benchmarks) in found.items()
        ]

    def rows(self) -> Iterator[tuple[str, Row, float, list[PlannedCell]]]:
        """Model, row, retention and cells of each line of the table, in its order; no cells where no keep matches, or
        where a method is defined for none of the benchmarks.
        """
        for model in self.experiment.models:
            for number, row in enumerate(self.experiment.rows):
                for retention in row.keep:
                    key = (model, number, retention)
                    cells = [cell for cell in self.cells if (cell.model, cell.row, cell.retention) == key]
                    yield model, row, retention, cells

    def name_of(self, model: str) -> str:
        """What a table calls a model: a checkpoint by its folder's name, wherever it lies."""
        return next((cell.settings["model"]["name"] for cell in self.cells if cell.model == model), model)


class Data:
    """The benchmarks of one experiment in one data folder, each opened once for a number of frames, when needed.

    `pictures`: where frames and decoded images are kept, by content (default: in the data folder).
    """

    def __init__(self, experiment: Experiment, folder: Path, pictures: Path | None = None) -> None:
        self.experiment, self.folder, self.pictures = experiment, folder, pictures
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
            self._opened[key] = open_benchmark(name, self.folder, frames, pictures=self.pictures)
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


def make(experiment: Experiment, data: Data, store: Store, *, keep: bool = True) -> Plan:
    """The plan of an experiment: from the store where one was made from the very same inputs, else made anew and, with
    `keep`, kept there.

    Raises UserError for data, checkpoints or methods that cannot be used.
    """
    for name in REFUSED:
        if name in os.environ:
            raise UserError(f"the environment variable {name} would change what a model sees; unset it")
    path = store.root / "plans" / f"{_key(experiment, data.folder)}.json"
    plan = _load(path, experiment) or _resolve(experiment, data)
    # Opening a benchmark may unpack files, so the stamp to keep it under is taken afterwards.
    path = store.root / "plans" / f"{_key(experiment, data.folder)}.json"
    if keep and not path.exists():
        cells = [dataclasses.asdict(cell) for cell in plan.cells]
        undefined = [dataclasses.asdict(each) for each in plan.undefined]
        content = {"samples": plan.samples, "clusters": plan.clusters, "cells": cells, "undefined": undefined}
        write_atomically(path, json.dumps(content, ensure_ascii=False))
    limit = experiment.max_samples
    samples = {name: indices[:limit] for name, indices in plan.samples.items()}
    clusters = {name: names[:limit] for name, names in plan.clusters.items()}
    return dataclasses.replace(plan, samples=samples, clusters=clusters)


def info_of(experiment: Experiment, model: str) -> Any:
    """The `ModelInfo` of a model, at the revision that the experiment asks for. UserError as from `model_info`."""
    from harness.models import model_info

    info = model_info(model)
    return dataclasses.replace(info, revision=experiment.revision_of(model) or info.revision)


def open_settings(experiment: Experiment, model: str) -> dict[str, Any]:
    """What an experiment says to `harness.models.open_model` about a model, beyond the model's own entry."""
    settings: dict[str, Any] = {"dtype": experiment.dtype, "attn_implementation": experiment.attention}
    if experiment.max_new_tokens is not None:
        settings["max_new_tokens"] = experiment.max_new_tokens
    if (revision := experiment.revision_of(model)) is not None:
        settings["revision"] = revision
    return settings | experiment.settings_of(model)


def _load(path: Path, experiment: Experiment) -> Plan | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}; remove it to have it made anew") from error
    cells = [PlannedCell(**cell) for cell in content["cells"]]
    undefined = [Undefined(**each) for each in content["undefined"]]
    return Plan(experiment, cells, content["samples"], content["clusters"], undefined)


def _key(experiment: Experiment, data: Path) -> str:
    """Digest of all that a plan is made from, without loading any of it."""
    from harness.models import checkpoint_folder

    models: dict[str, Any] = {}
    for name in experiment.models:
        info = info_of(experiment, name)
        folder = Path(info.path_or_hub_id)
        if folder.is_dir():
            models[name] = identity.folder_stamp(folder)
        else:  # of the hub's, the revision tells all but what was put beside it
            found = checkpoint_folder(info)
            models[name] = [info.revision, [identity.folder_stamp(each) for each in _beside(found)]]
    inputs = {
        "experiment": experiment.model_dump(
            mode="json", exclude={"max_samples", "title", "judge", "judges", "costs_at"}
        ),
        "compressors": [_stamp_of(value) for value in _places(experiment)],
        "models": models,
        "data": [str(data), identity.folder_stamp(data, leave_out=_derived(data))],
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


def _derived(data: Path) -> list[str]:
    return [str(path.relative_to(data)) for pattern in DERIVED for path in data.glob(pattern)]


def _beside(checkpoint: Path | None) -> list[Path]:
    return [] if checkpoint is None else sorted(path for path in checkpoint.glob("compressor-*") if path.is_dir())


def _places(experiment: Experiment) -> list[Any]:
    fields = [value for row in experiment.rows for value in row.fields.values()]
    return [*fields, *(experiment.compressor_of(model, row) for model in experiment.models for row in experiment.rows)]


def _stamp_of(value: Any) -> str:
    return identity.folder_stamp(Path(value)) if isinstance(value, str) and Path(value).is_dir() else str(value)


def _resolve(experiment: Experiment, data: Data) -> Plan:
    from harness.compressor.chosen import method_of, untaught
    from harness.matching import keep_for

    infos = {name: info_of(experiment, name) for name in experiment.models}
    model_parts = {name: _model_settings(experiment, info) for name, info in infos.items()}
    opened = {name: data.open(name) for name in experiment.benchmarks}
    messages = {name: _messages(opened[name]) for name in experiment.benchmarks}
    benchmarks = {name: _benchmark_settings(data, name, messages[name]) for name in experiment.benchmarks}
    shows = {name: _shows(opened[name].modality, messages[name]) for name in experiment.benchmarks}
    cells, undefined = [], []
    for model, info in infos.items():
        for number, row in enumerate(experiment.rows):
            made = method_of(experiment, model, row, data.folder)
            why = {
                name: made.undefined(info.family, shows[name]) or untaught(made, info, shows[name], data.folder)
                for name in experiment.benchmarks
            }
            undefined += [Undefined(model, number, name, reason) for name, reason in why.items() if reason]
            if all(why.values()):
                continue
            method_part = _method_settings(row, info, made, experiment.compressor_of(model, row))
            for retention in row.keep:
                keep = keep_for(experiment.match, made, model, retention)
                if keep is None:
                    continue
                for name in (name for name, reason in why.items() if reason is None):
                    frames = None if opened[name].modality == "image" else experiment.frames_of(model)
                    cut = {"method": method_part, "keep": keep}
                    settings = {**model_parts[model], **cut, "frames": frames, "benchmark": benchmarks[name]}
                    cells.append(PlannedCell(model, number, keep, name, settings, retention))
    samples = {name: each.indices for name, each in opened.items()}
    return Plan(experiment, cells, samples, {name: each.clusters for name, each in opened.items()}, undefined)


def _messages(opened: Any) -> list[Any]:
    """The message of every sample, or what is wrong with it: the sweep records why it cannot be asked."""
    found: list[Any] = []
    for position in range(len(opened)):
        try:
            found.append(opened.message(position))
        except (SampleError, UserError) as error:
            found.append(str(error))
    return found


def _shows(modality: str, messages: list[Any]) -> str:
    """`modality`, or "text" where no message has an image or video."""
    kinds = {item["type"] for message in messages if not isinstance(message, str) for item in message}
    return "text" if kinds == {"text"} else modality


def _benchmark_settings(data: Data, name: str, messages: list[Any]) -> dict[str, Any]:
    """Name, data digest and prompt digest; the places of the data and of the pictures are left out of the prompts.

    The prompts are those of a model that reads video files: one that takes frames gets the same words, and its frames
    follow from the data and the number of frames.
    """
    opened = data.open(name)
    place = str(data.folder.resolve())
    texts = [json.dumps(message, sort_keys=True, default=str) for message in messages]
    pictures = f"/LMUData/images/{opened.pictures.name}"
    prompts = [text.replace(str(opened.pictures), pictures).replace(place, "") for text in texts]
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
    generation = {**info.defaults, **open_settings(experiment, info.name)}
    generation.pop("revision", None)  # it stands with the model
    if folder.is_dir():  # by content, wherever it lies
        source = {"name": folder.name, "files": identity.checkpoint_digest(folder)}
    else:
        source = {"name": info.name, "hub": info.path_or_hub_id, "revision": info.revision}
    return {
        "model": {**source, "family": info.family},
        "attention": experiment.attention,
        "dtype": experiment.dtype,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "generation": generation,
        "versions": {**identity.versions(), "retain": identity.retain_version()},
    }


def _method_settings(row: Row, info: Any, made: Any, compressor: str | None) -> dict[str, Any]:
    """Name, every field with its default, the compressor's files where there is one, and the code that runs.

    `positions` has a place of its own; it is among the fields too where kept tokens are renumbered. `compressor` is the
    place that was named; one that lies beside the data or in the checkpoint is known by its files alone.
    """
    from harness.compressor.chosen import files_of
    from model_wrappers.families import FAMILIES
    from model_wrappers.registry import settings_of

    fields = settings_of(made)
    family = f"model_wrappers.families.{FAMILIES[info.family][0]}"
    modules = ["model_wrappers.compression", family, type(made).__module__]
    settings: dict[str, Any] = {
        "name": row.method,
        "fields": fields,
        "positions": made.positions,
        "code": identity.code_digest(modules),
    }
    if "compressor" in fields:
        fields["compressor"] = compressor
        settings["compressor"] = files_of(made, info)
    return settings
