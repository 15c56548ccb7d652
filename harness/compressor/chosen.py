"""Which compressor answers a cell of `cnn`: named, beside the data, or the checkpoint's; no model is loaded for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import identity
from harness.data.sources import PAPER
from harness.experiments import Experiment, Row
from harness.models import ModelInfo, checkpoint_folder
from model_wrappers.compressor.hub import CONFIG, WEIGHTS, locate, media_folder
from model_wrappers.errors import UserError
from model_wrappers.registry import method, method_class

if TYPE_CHECKING:
    from model_wrappers.methods.base import Method

FOLDER = "compressors"
"""In a data folder: `compressors/<model>/compressor-video/` and `compressor-image/`, for models of the hub, whose own
folder is the hub's cache."""


def method_of(experiment: Experiment, model: str, row: Row, data: Path) -> Method:
    """The method of a row as it runs on `model`: where it takes a compressor and the row names none, with the one that
    the experiment names for the model, or else the one that lies in the folder `data`; None is the checkpoint's own.

    Raises UserError as `model_wrappers.registry.method`.
    """
    fields = dict(row.fields)
    if "compressor" in _fields(row.method):
        beside = data / FOLDER / Path(model).name
        place = experiment.compressor_of(model, row) or (str(beside.resolve()) if beside.is_dir() else None)
        if place is not None:
            fields["compressor"] = place
    return method(row.method, **fields)


def untaught(made: Method, info: ModelInfo, shows: str, data: Path) -> str | None:
    """Why `made` is not run for what a benchmark shows, where there is a compressor for other media only; else None.

    Raises UserError where there is none at all, naming the commands that train one; what the hub does not give; and a
    named place without a compressor.
    """
    if not hasattr(made, "compressor"):
        return None
    place = _place(made, info)
    found = sorted(path.name for path in place.glob("compressor-*") if path.is_dir()) if place else []
    if made.compressor is not None:
        assert place is not None
        if media_folder(place, shows) == place or f"compressor-{shows}" in found:
            return None
        if found:
            return f"{made.compressor} has {' and '.join(found)} and none for {shows}s"
        raise UserError(
            f"{made.name}: compressor {made.compressor} of {info.name} is no folder with {CONFIG} and {WEIGHTS}"
        )
    if f"compressor-{shows}" in found:
        return None
    if found:
        return f"its checkpoint has {' and '.join(found)} and none for {shows}s"
    raise UserError(
        f"{made.name} needs a compressor of {info.name} for {shows}s, and there is none: {_training(info, shows, data)}"
    )


def files_of(made: Method, info: ModelInfo) -> dict[str, list[str]]:
    """By folder, the digests of the files of every compressor that `made` could take for the model.

    Not of a compressor's card: words about it change no answer.
    """
    place = _place(made, info)
    if place is None:
        return {}
    inside = sorted(path for path in place.glob("compressor-*") if path.is_dir())
    folders = [place] if getattr(made, "compressor", None) and media_folder(place, "") == place else inside
    return {
        folder.name: [identity.file_digest(path) for name in (CONFIG, WEIGHTS) if (path := folder / name).is_file()]
        for folder in folders
    }


def _place(made: Any, info: ModelInfo) -> Path | None:
    return checkpoint_folder(info) if made.compressor is None else locate(made.compressor)


def _fields(name: str) -> dict[str, Any]:
    return getattr(method_class(name), "__dataclass_fields__", {})


def _training(info: ModelInfo, shows: str, data: Path) -> str:
    name = Path(info.name).name
    if name.startswith("micro-"):
        return f"train one with `retain micro teach {name}`"
    out = data / FOLDER / name / f"compressor-{shows}"
    # `collect` looks for test videos in results/data by itself, and nowhere else.
    refused = "" if data.resolve().is_relative_to(PAPER.parent.resolve()) else f" --benchmarks {data}"
    return (
        f"train one with `retain compressor collect --model {info.name} --data SOURCE --out SET{refused}` and "
        f"`retain compressor train --data SET --out {out}`, or name its folder or hub id in the profile's `compressors`"
    )
