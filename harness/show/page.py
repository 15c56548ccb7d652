"""All panels as one HTML page that needs nothing but a browser, and both files on the disk."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image

from harness.disk import write_atomically
from harness.show.draw import NOTHING, Drawing, colour_bar, counted, model_name, notes, same, says
from harness.show.gather import Picture
from harness.show.request import Request
from harness.show.sheet import png
from harness.store import digest

TEMPLATE = Path(__file__).with_name("page.html.jinja")
QUALITY = 90
"""Of the page's pictures, which are WebP."""
LONGEST = 16383
"""Pixels along a side of a WebP picture; a film of hundreds of frames has more."""


def html(drawing: Drawing) -> str:
    """The page: pictures are inside it, and whatever a model or a user wrote is text."""
    # Imported here: `retain --help` need not wait for it.
    from jinja2 import Environment, StrictUndefined

    gathered = drawing.gathered
    rows = [
        {
            "title": row.guide.title,
            "method": row.guide.method,
            "lacking": row.guide.lacking,
            "map": row.map and data_uri(row.map.pixels),
            "top": row.map and f"{row.map.top:.3g}×",
            "scale": row.map and row.map.scale,
            "cuts": [
                {
                    "image": data_uri(pixels),
                    "counted": counted(cut, gathered),
                    "said": says(cut, gathered),
                    "same": same(cut, gathered),
                }
                for cut, pixels in zip(row.guide.cuts, row.kept, strict=True)
            ],
        }
        for row in drawing.rows
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        request=gathered.request,
        model=model_name(gathered.request.model),
        answer=gathered.answer or NOTHING,
        n_visual=gathered.n_visual,
        frames=len(gathered.pictures),
        columns=1 + len(gathered.request.keeps),
        input=data_uri(drawing.input),
        bar=data_uri(colour_bar()),
        notes=notes(drawing),
        rows=rows,
    )


def data_uri(pixels: Picture) -> str:
    """A picture [H, W, 3] as an address that holds it."""
    sink, image = io.BytesIO(), Image.fromarray(pixels)
    image.thumbnail((LONGEST, LONGEST))
    image.save(sink, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()


def write(drawing: Drawing, folder: Path) -> list[Path]:
    """Writes the PNG and the page, each whole or not at all.

    Their name is the model's, the file's and a digest of the rest of the request: another question, another name.

    Raises:
        StoreError: the disk refuses.
    """
    name = file_name(drawing.gathered.request)
    paths = {
        folder / f"{name}.png": png(drawing),
        folder / f"{name}.html": html(drawing).encode(),
    }
    for path, content in paths.items():
        write_atomically(path, content)
    return list(paths)


def file_name(request: Request) -> str:
    """Without a suffix, such as ``micro-vila-dog-1f2e3d4c``."""
    parts = [model_name(request.model), request.path.stem]
    asked = [request.model, str(request.path), request.question, list(request.keeps), request.frames]
    return "-".join([*(re.sub(r"[^\w-]", "-", part)[:60] for part in parts), digest(asked)[:8]])
