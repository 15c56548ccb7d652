"""VILA1.5 on today's transformers: SigLIP tower, a projector to a quarter of the patches, Llama-3.

Names come in when they are first used, so that checking a folder (`layout`) loads neither torch nor transformers.
Importing the model or the processor registers them with transformers' Auto classes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_wrappers.vila.config import VilaConfig
    from model_wrappers.vila.hub import load_hub_layout
    from model_wrappers.vila.layout import check_vila_folder
    from model_wrappers.vila.model import VilaForConditionalGeneration, VilaModel
    from model_wrappers.vila.processor import VilaProcessor

_HOME = {
    "VilaConfig": "config",
    "VilaForConditionalGeneration": "model",
    "VilaModel": "model",
    "VilaProcessor": "processor",
    "check_vila_folder": "layout",
    "load_hub_layout": "hub",
}

__all__ = [
    "VilaConfig",
    "VilaForConditionalGeneration",
    "VilaModel",
    "VilaProcessor",
    "check_vila_folder",
    "load_hub_layout",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
