"""The models by name: which family reads them, where they lie, and the settings they are measured with."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_wrappers import registry
from model_wrappers.errors import UserError
from model_wrappers.families import FAMILIES, family_class
from model_wrappers.families.checkpoint import check_checkpoint

MICRO = Path(__file__).parent / "micro" / "checkpoints"


@dataclass(frozen=True)
class ModelInfo:
    """One model, without loading it."""

    name: str
    family: str
    """``model_type`` of its config.json, a key of `model_wrappers.families.FAMILIES`."""
    path_or_hub_id: str
    revision: str | None = None
    """Commit on the hub; None for a local folder, which its content identifies."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Settings of the family's class, where a caller says nothing else."""


_PAPER = {"min_pixels": 504 * 504, "max_pixels": 504 * 504, "nframe": 8}
"""arXiv 2506.01097, section 4.1: 8 frames at 504 x 504 pixels, which are 4 x 18 x 18 = 1296 visual tokens."""

_KNOWN = {
    info.name: info
    for info in (
        ModelInfo(
            "micro-qwen2-vl",
            "qwen2_vl",
            str(MICRO / "micro-qwen2-vl"),
            None,
            {"min_pixels": 168 * 168, "max_pixels": 168 * 168, "nframe": 8, "max_new_tokens": 16},
        ),
        ModelInfo(
            "Qwen2-VL-2B-Instruct",
            "qwen2_vl",
            "Qwen/Qwen2-VL-2B-Instruct",
            "895c3a49bc3fa70a340399125c650a463535e71c",
            _PAPER,
        ),
        ModelInfo(
            "Qwen2-VL-7B-Instruct",
            "qwen2_vl",
            "Qwen/Qwen2-VL-7B-Instruct",
            "eed13092ef92e448dd6875b2a00151bd3f7db0ac",
            _PAPER,
        ),
    )
}


def model_names() -> list[str]:
    """The names in the table; any path of a checkpoint folder is a name too."""
    return list(_KNOWN)


def model_info(name: str) -> ModelInfo:
    """What is known of a model before it is loaded; its files are looked at where they are on this machine.

    Args:
        name: a known name, or the path of a checkpoint folder.

    Raises:
        UserError: no such model, or a file of its folder is missing or broken.
    """
    if name in _KNOWN:
        info = _KNOWN[name]
        if info.revision is None:
            check_checkpoint(Path(info.path_or_hub_id))
        return info
    folder = Path(name).expanduser()
    if not folder.is_dir():
        known = ", ".join(model_names())
        raise UserError(f"Unknown model {name!r}: known are {known}, and the path of any checkpoint folder.")
    family = check_checkpoint(folder)
    if family not in FAMILIES:
        raise UserError(f"{folder} is a {family} checkpoint; families that can be cut: {', '.join(sorted(FAMILIES))}.")
    return ModelInfo(name, family, str(folder))


def parse_model(name: str) -> tuple[ModelInfo, dict[str, Any]]:
    """Takes ``Qwen2-VL-7B-Instruct+fastv:layer=2@0.25`` apart.

    Returns:
        The model, and ``{"method": ..., "keep": ...}``, which is empty where the name says neither.

    Raises:
        UserError: unknown model, method or field, or a keep outside (0, 1].
    """
    if name in _KNOWN or Path(name).expanduser().is_dir():
        return model_info(name), {}
    spec = registry.parse(name)
    return model_info(spec.model), {"method": spec.method, "keep": spec.keep}


def open_model(name: str, **settings: Any) -> Any:
    """Loads a model.

    Args:
        name: a known name or the path of a checkpoint folder, with or without a method and keep.
        settings: of the family's class (`model_wrappers.families.qwen2_vl.Qwen2VL`), over the model's defaults.

    Returns:
        An object with ``decode``, ``encode``, ``prepare``, ``answer``, ``generate`` and ``close``.

    Raises:
        UserError: unknown model or setting, or a file of the checkpoint is missing or broken; before any is loaded.
    """
    info, cut = parse_model(name)
    family = family_class(info.family)
    allowed = [key for key in inspect.signature(family.__init__).parameters if key not in ("self", "model_path")]
    if unknown := sorted(set(settings) - set(allowed)):
        raise UserError(f"{info.name} has no setting {unknown[0]!r}; known: {', '.join(allowed)}.")
    return family(info.path_or_hub_id, **{"revision": info.revision, **info.defaults, **cut, **settings})
