"""Where a compressor's files are: a folder here, or a repository of the Hugging Face hub."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from model_wrappers.errors import UserError
from model_wrappers.hub import download

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The two files that a compressor is read from."""


def locate(where: str | Path) -> Path:
    """The folder of a compressor, downloaded first where `where` is a hub id (once a process).

    Args:
        where: a folder, there or not; or, as text, `owner/name` where there is no such folder.

    Raises:
        UserError: a hub id that the hub does not give.
    """
    folder = Path(where).expanduser()
    if isinstance(where, Path) or folder.is_dir() or folder.is_absolute():
        return folder
    if where.startswith(".") or where.count("/") != 1 or not all(where.split("/")):
        return folder
    return _from_hub(where)


@lru_cache(maxsize=8)
def _from_hub(repository: str) -> Path:
    try:
        return download(repository, patterns=[CONFIG, WEIGHTS])
    except UserError as error:
        raise UserError(f"compressor {repository!r} is no folder here: {error}") from error
