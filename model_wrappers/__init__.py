"""Visual-token compression for multimodal LLMs: one seam, many methods.

``with compress(model, "fastv", keep=0.25, layer=4) as compression: model.generate(**inputs)`` is the whole interface
for most users. Importing this package loads neither torch nor transformers: names come in when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_wrappers.compression import Compression, Record, budget, compress, generate
    from model_wrappers.encoding import encode
    from model_wrappers.prompt import VisualPrompt

_HOME = {
    "Compression": "model_wrappers.compression",
    "Record": "model_wrappers.selection",
    "UserError": "model_wrappers.errors",
    "VisualPrompt": "model_wrappers.prompt",
    "budget": "model_wrappers.selection",
    "compress": "model_wrappers.compression",
    "encode": "model_wrappers.encoding",
    "generate": "model_wrappers.compression",
}

__all__ = [
    "Compression",
    "Record",
    "UserError",
    "VisualPrompt",
    "budget",
    "compress",
    "encode",
    "generate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
