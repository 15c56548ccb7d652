"""What a download left in a data folder: a manifest a benchmark, `manifests/<name>.json`.

It is written twice: before the first byte, as unfinished, and last of all with the size of every file. So a download
that was cut short is not taken for a complete one, and neither is one whose files were changed since. Data that was
placed by hand has none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.store import write_atomically
from model_wrappers.errors import UserError


def place(data: Path, name: str) -> Path:
    """The manifest's path."""
    return data / "manifests" / f"{name}.json"


def begin(data: Path, name: str, origin: dict[str, Any]) -> None:
    """Say that the download from `origin` (address, revision) has begun and is not finished."""
    _write(place(data, name), {"complete": False, "origin": origin, "files": {}})


def finish(data: Path, name: str, origin: dict[str, Any], files: list[Path]) -> None:
    """Say that the download is finished: these are its files, in `data`, with their sizes."""
    sizes = {str(path.relative_to(data)): path.stat().st_size for path in sorted(files)}
    _write(place(data, name), {"complete": True, "origin": origin, "files": sizes})


def fault(data: Path, name: str) -> str | None:
    """Why the data of a benchmark is not what was downloaded, in words; None where it is, or has no manifest."""
    path = place(data, name)
    try:
        content = json.loads(path.read_text("utf-8"))
        complete, files = bool(content["complete"]), dict(content["files"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete it, and `retain data` checks the data anew"
        ) from error
    if not complete:
        return "its download was not finished"
    for file, size in files.items():
        try:
            found = (data / file).stat().st_size
        except OSError:
            return f"{file}, which was downloaded, is gone"
        if found != size:
            return f"{file} has {found} bytes where {size} were downloaded"
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False))
