"""VLMEvalKit model classes whose visual tokens can be cut: one module a family.

Nothing is imported here: the families need VLMEvalKit, which takes seconds to load and which ``import model_wrappers``
must not bring along. ``family_class`` loads one when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from model_wrappers.errors import UserError

FAMILIES: dict[str, tuple[str, str]] = {
    "qwen2_vl": ("qwen2_vl", "Qwen2VL"),
    "llava_onevision": ("llava_onevision", "LLaVAOneVision"),
    "llava_llama": ("vila", "VILA"),  # as VILA is published: three folders
    "retain_vila": ("vila", "VILA"),  # as our VILA model saves itself
}
"""``model_type`` of a checkpoint's config.json -> (module of this package, class)."""


def family_class(model_type: str) -> Any:
    """The model class of a family, such as ``qwen2_vl``.

    Raises:
        UserError: no family of this name.
    """
    if model_type not in FAMILIES:
        raise UserError(f"No model family {model_type!r}; known: {', '.join(sorted(FAMILIES))}.")
    module, name = FAMILIES[model_type]
    return getattr(import_module(f".{module}", __package__), name)
