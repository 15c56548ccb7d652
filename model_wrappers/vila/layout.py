"""The folder layout in which VILA1.5 is published, and whether a folder has it whole.

    config.json                 model_type `llava_llama`: how the parts are joined
    llm/                        a Llama with its tokenizer
    vision_tower/               a SigLIP vision model with its preprocessor
    mm_projector/               the projector

This module loads neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_wrappers.errors import UserError
from model_wrappers.families.checkpoint import check_weights, read_json

LLM, TOWER, PROJECTOR = PARTS = ("llm", "vision_tower", "mm_projector")
WEIGHTS = "model.safetensors"
"""A part's weights, where they are in one file; where in several, `.index.json` behind it names them."""


@dataclass(frozen=True)
class HubConfigs:
    """The four config.json files of a folder in the published layout."""

    root: dict[str, Any]
    llm: dict[str, Any]
    tower: dict[str, Any]
    projector: dict[str, Any]


_ONLY: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("root", "mm_vision_select_feature", ("cls_patch", None)),
    ("root", "image_aspect_ratio", ("resize", None)),
    ("root", "s2", (False, None)),
    ("root", "mm_use_im_start_end", (False, None)),
    ("root", "token_order", ("column", "row", None)),
    ("root", "template", ("llama_3", "llama_3_may_2024", None)),
    ("llm", "model_type", ("llama",)),
    ("tower", "model_type", ("siglip_vision_model",)),
    ("projector", "mm_projector_type", ("mlp_downsample",)),
)
"""Settings of which this implementation has one or two; None: may be left out. The last two of the root's are ours: who
knows that a checkpoint was trained the other way writes so into its root config.json."""


def is_hub_layout(folder: Path) -> bool:
    """Whether a folder is laid out as VILA1.5 is published, rather than as `save_pretrained` writes it."""
    return (folder / LLM).is_dir()


def read_configs(folder: Path) -> HubConfigs:
    """The config.json of the root and of the three parts.

    Raises:
        UserError: one is missing, is not JSON, or asks for what this implementation does not have.
    """
    configs = HubConfigs(read_json(folder, "config.json"), *(read_json(folder / part, "config.json") for part in PARTS))
    paths = {"root": folder, "llm": folder / LLM, "tower": folder / TOWER, "projector": folder / PROJECTOR}
    for part, key, allowed in _ONLY:
        value = getattr(configs, part).get(key)
        if value not in allowed:
            known = " or ".join(repr(one) for one in allowed if one is not None)
            raise UserError(f"{paths[part] / 'config.json'} has {key} {value!r}; only {known} is supported.")
    return configs


def check_vila_folder(folder: Path) -> None:
    """Checks that all files of the published layout are there and whole, as far as that is seen without loading them.

    Raises:
        UserError: names the folder and the file that is missing or broken, or the setting that is not supported.
    """
    for part in PARTS:
        if not (folder / part).is_dir():
            raise UserError(f"Checkpoint folder {folder} has no folder {part}/, where VILA keeps a part of the model.")
    read_configs(folder)
    for part in PARTS:
        check_weights(folder / part)
        if not any((folder / part / name).exists() for name in (WEIGHTS, f"{WEIGHTS}.index.json")):
            raise UserError(f"Checkpoint folder {folder / part} has its weights in another format than safetensors.")
    if not (folder / LLM / "tokenizer.json").exists():
        raise UserError(f"Checkpoint folder {folder / LLM} has no tokenizer.json.")
    read_json(folder / LLM, "tokenizer.json")
    read_json(folder / TOWER, "preprocessor_config.json")
