"""Benchmarks that are none of the paper's: data sets registered in VLMEvalKit, and TSVs of one's own.

How each is scored (`Benchmark.scheme`) follows from the `evaluate` that its class has:

- `mcq`: the kit's accuracy of letters, which are read here; `circular`: the same where a question counts once for all
  its rotations (MMBench); `yes/no`: the kit's rating of yes and no, read here; `vqa`: the kit's string metrics (VQA
  score, ANLS, relaxed accuracy); `exact`: exact match, for open questions of one's own;
- `kit`: a class with an evaluation of its own, which is called as it is, without a judge.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.benchmarks import Benchmark
from harness.vlmevalkit import kit, register_datasets
from model_wrappers.errors import UserError

# Names for which the kit's ImageMCQDataset counts in another way than the mean of right letters.
_COUNTED_OTHERWISE = ("MMMU", "MMT", "MMSci", "MMVP")
_REFUSED = {"MVBench": "the main branch of MVBench, which lacks videos; use MVBench, which is its branch `video`"}
_CIRCULAR = ("mmbench", "ccbench", "circular", "mmcr")
_SCHEMES = {
    "mcq": ("choice", "accuracy"),
    "circular": ("choice", "accuracy, a question counts when all its rotations are right"),
    "yes/no": ("yes/no", "VLMEvalKit's rating of yes and no"),
    "vqa": ("open", "VLMEvalKit's string metric"),
    "exact": ("open", "exact match"),
    "kit": ("other", "VLMEvalKit's own evaluation"),
}


def entry(name: str, data: Path | None, ours: Iterable[Benchmark]) -> Benchmark | None:
    """The entry of a data set that is none of the paper's, or None. A registered name wins over a file;
    a file is judged by its columns, as the kit does (A and B: multiple choice).
    """
    dataset = kit("vlmeval.dataset")
    register_datasets()
    if name in dataset.supported_video_datasets or name in dataset.SUPPORTED_DATASETS:
        return _known(name, dataset, ours)
    path = data / "LMUData" / f"{name}.tsv" if data is not None else None
    return _own(name, path) if path is not None and path.is_file() else None


def _own(name: str, path: Path) -> Benchmark:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file, delimiter="\t"), [])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TSV ({error})") from error
    if not {"image", "image_path"} & set(columns):
        raise UserError(f"{path} has no column 'image'; a data set of your own needs index, image and question")
    if {"A", "B"} <= set(columns):
        return _made(name, name, "vlmeval.dataset.image_mcq", "CustomMCQDataset", "image", "mcq")
    return _made(name, name, "vlmeval.dataset.image_vqa", "CustomVQADataset", "image", "exact")


def _known(name: str, dataset: Any, ours: Iterable[Benchmark]) -> Benchmark:
    base, cls = name, None
    if name in dataset.supported_video_datasets:
        variant = dataset.supported_video_datasets[name]
        base, cls = variant.keywords.get("dataset", name), variant.func
    if base in _REFUSED:
        raise UserError(f"{name} is {_REFUSED[base]}")
    for found in ours:
        if found.kit_dataset == base:
            return dataclasses.replace(found, name=name, scheme=found.scored_as)
    if cls is None:
        cls = next(c for c in dataset.DATASET_CLASSES if name in c.supported_datasets())
    modality = str(getattr(cls, "MODALITY", "")).lower()
    if modality not in {"image", "video"}:
        raise UserError(f"{name} is a data set of VLMEvalKit without images or videos; there is nothing to compress")
    return _made(name, base, cls.__module__, cls.__name__, modality, _scheme(name, cls))


def _scheme(name: str, cls: Any) -> str:
    mcq = kit("vlmeval.dataset.image_mcq").ImageMCQDataset
    if getattr(cls, "evaluate", None) is mcq.evaluate and not any(part in name for part in _COUNTED_OTHERWISE):
        return "circular" if any(part in name.lower() for part in _CIRCULAR) else "mcq"
    if getattr(cls, "evaluate", None) is kit("vlmeval.dataset.image_yorn").ImageYORNDataset.evaluate:
        return "yes/no"
    vqa = kit("vlmeval.dataset.image_vqa")
    if getattr(cls, "evaluate", None) is vqa.ImageVQADataset.evaluate:
        return "vqa"
    return "MMVet" if cls is vqa.MMVet else "kit"


def _made(name: str, base: str, module: str, class_name: str, modality: Any, scheme: str) -> Benchmark:
    if scheme == "MMVet":
        return Benchmark(name, base, module, class_name, "open", 100.0, "mean judge score", True, modality, scheme)
    kind: Any
    kind, metric = _SCHEMES[scheme]
    return Benchmark(name, base, module, class_name, kind, 100.0, metric, modality=modality, scheme=scheme)
