"""Which compressor serves a prompt, read once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from model_wrappers.anatomy import mllm_name
from model_wrappers.compressor.net import CONFIG, WEIGHTS, Compressor
from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt


def compressor_for(model: Any, prompt: VisualPrompt, where: str | None) -> Compressor:
    """The compressor for this model and this prompt's media, on the model's device.

    Args:
        where: folder or hub id; None looks into the checkpoint folder, for `compressor-video/` or `compressor-image/`
            as `prompt.media` says.

    Raises:
        UserError: none there, a broken one, or one trained for another MLLM.
    """
    beside = Path(model.name_or_path or ".") / f"compressor-{prompt.media}"
    folder = _explicit(where) if where is not None else beside
    if not folder.is_dir():
        raise UserError(
            f"cnn needs a compressor for {mllm_name(model) or 'this model'} and found none at {folder}: train one with "
            "`retain micro train` (the embedded model) or model_wrappers.compressor, or name its folder as "
            "cnn:compressor=PATH"
        )
    stamp = tuple((folder / name).stat().st_mtime_ns if (folder / name).exists() else 0 for name in (CONFIG, WEIGHTS))
    return _load(folder, stamp, mllm_name(model), prompt.inputs_embeds.device)


@lru_cache(maxsize=8)
def _load(folder: Path, stamp: tuple[int, ...], mllm: str, device: torch.device) -> Compressor:
    """`stamp` makes a compressor that was trained again in the same folder a new entry."""
    return Compressor.from_pretrained(folder, mllm).to(device)


def _explicit(where: str) -> Path:
    folder = Path(where).expanduser()
    if folder.is_dir() or folder.is_absolute() or where.startswith(".") or where.count("/") != 1:
        return folder
    return _from_hub(where)


@lru_cache(maxsize=8)
def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # offline, missing, private: the hub client has a kind for each
        raise UserError(f"compressor {repository!r} is no folder here, and the hub did not give it: {error}") from error
