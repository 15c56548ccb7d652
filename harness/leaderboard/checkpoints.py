"""What is known of a checkpoint without loading it, as far as its files are on this machine."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from model_wrappers.errors import UserError


def parameters(folder: Path) -> int:
    """Numbers in all weight tensors of a checkpoint, its compressors left out, from the headers of its files.

    Raises UserError where there is no safetensors file, or one that cannot be read.
    """
    files = [
        path
        for path in sorted(folder.rglob("*.safetensors"))
        if not path.relative_to(folder).parts[0].startswith(("compressor-", "."))
    ]
    if not files:
        raise UserError(f"checkpoint folder {folder} has no safetensors file, so its parameters cannot be counted")
    return sum(math.prod(shape) for path in files for shape in _shapes(path))


def _shapes(path: Path) -> list[list[int]]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path} is not a safetensors file: its header cannot be read") from error
