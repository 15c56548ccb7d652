"""The embedded default: procedural scenes, a small Qwen2-VL trained on them, benchmarks in the real formats."""

from __future__ import annotations


def register() -> None:
    """Makes the methods that only generated scenes allow known by name: `oracle` and `anti-oracle`."""
    from harness.micro.oracle import AntiOracle, Oracle
    from model_wrappers.registry import register_method

    register_method(Oracle.name, Oracle)
    register_method(AntiOracle.name, AntiOracle)
