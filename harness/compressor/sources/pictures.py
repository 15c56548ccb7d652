"""The pictures that image benchmarks ask about, by what they show: `LMUData/*.tsv` keeps them inside, under numbers.

A picture is known by the sha256 of its decoded pixels. So the same file is noticed, and the same pixels in another
lossless format; not noticed is a picture that was resized, cropped, or encoded anew with loss (as JPEG).
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

from harness.compressor.sources import Media
from model_wrappers.errors import SampleError

FOLDER = "LMUData"
"""Where VLMEvalKit keeps the TSVs of image benchmarks."""


def of_benchmark(path: Path) -> set[str]:
    """The digests of the pictures in a TSV; none where it has no column of them.

    A row may hold one picture in base64 or a list of them, or the number of the row that shows it. What cannot be
    decoded is left out: it is nobody's picture, and the benchmark itself says so when it is asked.

    Raises:
        OSError, csv.Error, ValueError: the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if "image" not in (rows.fieldnames or ()):
            return set()
        found = {digest(content) for row in rows for content in _contents(row["image"] or "")}
    return {one for one in found if one is not None}


def of_media(media: Media) -> str | None:
    """The digest of a training sample's picture; None where it cannot be read, which the sample's asking will say."""
    try:
        with media.file() as (path, _):
            return digest(path.read_bytes())
    except (OSError, SampleError):
        return None


def digest(content: bytes) -> str | None:
    """sha256 of width, height and RGB pixels of an encoded picture; None where it is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            pixels = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return hashlib.sha256(f"{pixels.width} x {pixels.height} ".encode() + pixels.tobytes()).hexdigest()


def _contents(cell: str) -> Iterator[bytes]:
    """The encoded pictures of a row."""
    for text in ast.literal_eval(cell) if cell.startswith("[") else [cell]:
        try:
            yield base64.b64decode(text, validate=True)
        except ValueError:
            continue
