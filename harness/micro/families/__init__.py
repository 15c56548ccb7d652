"""The architectures of which there is a micro edition, by the checkpoint's name."""

from __future__ import annotations

from importlib import import_module

from harness.micro.families.base import Family

FAMILIES = {
    "micro-qwen2-vl": ("qwen2_vl", "Qwen2VL"),
    "micro-llava-onevision": ("llava_onevision", "LlavaOnevision"),
    "micro-vila": ("vila", "Vila"),
}
"""Checkpoint -> (module of this package, class)."""


def family(name: str) -> Family:
    """The architecture of a micro checkpoint."""
    module, attribute = FAMILIES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)()


__all__ = ["FAMILIES", "Family", "family"]
