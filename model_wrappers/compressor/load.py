"""Which compressor serves a prompt, read once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from model_wrappers.anatomy import mllm_name
from model_wrappers.compressor.hub import CONFIG, WEIGHTS, locate, media_folder
from model_wrappers.compressor.net import Compressor
from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt


def compressor_for(model: Any, prompt: VisualPrompt, where: str | None) -> Compressor:
    """The compressor for this model and this prompt's media, on the model's device.

    Args:
        where: folder or hub id, of a compressor or of one for each kind of media; None looks into the checkpoint
            folder, for `compressor-video/` or `compressor-image/` as `prompt.media` says.

    Raises:
        UserError: none there, a broken one, or one trained for another MLLM.
    """
    beside = Path(model.name_or_path or ".") / f"compressor-{prompt.media}"
    folder = beside if where is None else _named(locate(where), prompt.media)
    if not folder.is_dir():
        raise UserError(
            f"cnn needs a compressor for {mllm_name(model) or 'this model'} and found none at {folder}: train one with "
            "`retain compressor train` (`retain micro teach` for the embedded models), or name its folder or hub id as "
            "cnn:compressor=PATH"
        )
    stamp = tuple((folder / name).stat().st_mtime_ns if (folder / name).exists() else 0 for name in (CONFIG, WEIGHTS))
    return _load(folder, stamp, mllm_name(model), prompt.inputs_embeds.device)


def _named(folder: Path, media: str) -> Path:
    """What a place that was named has for such media; the place itself where it has neither, for the reader to say."""
    inside = media_folder(folder, media)
    return inside if inside.is_dir() or any(folder.glob("compressor-*")) else folder


@lru_cache(maxsize=8)
def _load(folder: Path, stamp: tuple[int, ...], mllm: str, device: torch.device) -> Compressor:
    """`stamp` makes a compressor that was trained again in the same folder a new entry."""
    return Compressor.from_pretrained(folder, mllm).to(device)
