"""The mistakes in what `retain efficiency` was asked that names and numbers alone tell, before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.efficiency.shapes import known_shape
from harness.models import model_info
from model_wrappers.errors import UserError
from model_wrappers.registry import method_names, parse
from model_wrappers.rounding import check_keep

KEEPS = (0.5, 0.25, 0.1)
REPEATS, DECODED = 5, 8
"""Timed rounds, and tokens of an answer: the first comes of the prefill, the others of decode steps."""


def check(
    model: str,
    tokens: int,
    *,
    methods: Sequence[str] = (),
    keeps: Sequence[float] = KEEPS,
    random_weights: bool = False,
    layers: int | None = None,
    repeats: int = REPEATS,
    decoded: int = DECODED,
) -> tuple[list[Any], list[float]]:
    """The methods (none of them named: all that are registered) and the keeps. Raises UserError; see `request.check`
    for the arguments.
    """
    for name, value, least in (("--tokens", tokens, 2), ("--repeats", repeats, 1), ("--decoded", decoded, 2)):
        if value < least:
            raise UserError(f"{name} {value}: allowed are whole numbers from {least}")
    if layers is not None and not random_weights:
        raise UserError("--layers goes with --random-weights: a checkpoint has the layers that it has")
    if layers is not None and layers < 2:
        raise UserError(f"--layers {layers}: allowed are whole numbers from 2")
    chosen = [_method(spec) for spec in methods or [name for name in method_names() if name != "vanilla"]]
    kept = [check_keep(keep) for keep in dict.fromkeys(keeps)]
    if 1.0 in kept:
        raise UserError("--keeps 1: vanilla, which keeps everything, is measured in any case")
    if random_weights:
        known_shape(model)
    else:
        model_info(model)
    return chosen, kept


def _method(spec: str) -> Any:
    found = parse(f"model+{spec}@0.5") if spec != "vanilla" else None
    if found is None:
        raise UserError("--methods vanilla: it is measured in any case")
    return found.method
