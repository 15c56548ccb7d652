"""Where a compressor's files are: a folder here, or a repository of the Hugging Face hub."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from model_wrappers.errors import UserError
from model_wrappers.hub import download

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The two files that a compressor is read from."""


def hub_id(where: str | Path) -> tuple[str, str | None] | None:
    """Repository and revision (None: its main branch) where `where` is `owner/name` or `owner/name@revision` and no
    folder here; None where it is a folder, there or not.
    """
    folder = Path(where).expanduser()
    if isinstance(where, Path) or folder.is_dir() or folder.is_absolute():
        return None
    repository, at, revision = where.partition("@")
    if where.startswith(".") or repository.count("/") != 1 or not all(repository.split("/")) or (at and not revision):
        return None
    return repository, revision or None


def locate(where: str | Path) -> Path:
    """The folder of a compressor, or of one for each kind of media (`media_folder`), downloaded first where `where` is
    a hub id (once a process).

    Args:
        where: a folder, there or not; or, as text, `owner/name` or `owner/name@revision` where there is no such folder.

    Raises:
        UserError: a hub id that the hub does not give.
    """
    found = hub_id(where)
    return Path(where).expanduser() if found is None else _from_hub(*found)


def media_folder(folder: Path, media: str) -> Path:
    """The folder itself where it is a compressor, else its `compressor-video/` or `compressor-image/`."""
    return folder if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else folder / f"compressor-{media}"


@lru_cache(maxsize=8)
def _from_hub(repository: str, revision: str | None) -> Path:
    wanted = [f"{folder}{name}" for name in (CONFIG, WEIGHTS) for folder in ("", "compressor-*/")]
    try:
        return download(repository, revision, patterns=wanted)
    except UserError as error:
        raise UserError(f"compressor {repository!r} is no folder here: {error}") from error
