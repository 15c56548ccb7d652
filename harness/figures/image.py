"""A figure as the bytes of its files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def as_files(figure: Figure) -> dict[str, bytes]:
    """PNG and SVG by their endings. The same figure gives the same bytes: an SVG has neither date nor random ids."""
    from matplotlib import rc_context

    files = {}
    for suffix, metadata in (("png", None), ("svg", {"Date": None})):
        sink = io.BytesIO()
        with rc_context({"svg.hashsalt": "retain"}):
            figure.savefig(sink, format=suffix, metadata=metadata)
        files[suffix] = sink.getvalue()
    return files
