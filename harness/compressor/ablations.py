"""The ablations by name: which compressors each of them trains, and on what they are measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from harness.compressor.dataset import FREE, Pair
from harness.compressor.opened import Data
from harness.compressor.train import Settings
from model_wrappers.compressor.net import CHANNELS, InputScale
from model_wrappers.errors import UserError

DEPTHS = (*CHANNELS, CHANNELS[-1], CHANNELS[-1])
"""Widths by layer: what is deeper than the paper's five stays as wide as the fifth."""
WIDTHS = ((8, 16, 32, 64, 128), (16, 32, 64, 128, 256), CHANNELS, (64, 128, 256, 512, 1024))
SIZES = {"1/8": 8, "1/4": 4, "1/2": 2, "all": 1}
SCALES: tuple[InputScale, ...] = ("raw", "mean")


@dataclass(frozen=True)
class Variant:
    """One compressor: its training, and the held-out samples it is measured on, by what is said of them."""

    name: str
    settings: Settings
    training: Sequence[Pair] = field(repr=False)
    tests: Mapping[str, Sequence[Pair]] = field(repr=False)


@dataclass(frozen=True)
class Ablation:
    """One table. `variants` makes the rows from one model's training sets, of which `fewest` to `most` are wanted."""

    title: str
    note: str
    variants: Callable[[Sequence[Data], Settings], Iterator[Variant]]
    fewest: int = 1
    most: int = 1


def _depth(sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    for depth in range(1, len(DEPTHS) + 1):
        yield _one(sets, f"{depth} layers" if depth > 1 else "1 layer", replace(settings, channels=DEPTHS[:depth]))


def _kernel(sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    for kernel in (1, 3, 5, 7):
        yield _one(sets, f"kernel {kernel}", replace(settings, kernel=kernel))


def _channels(sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    for channels in WIDTHS:
        yield _one(sets, "-".join(map(str, channels)), replace(settings, channels=channels))


def _zeroed(sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    for zeroed in (0.0, 0.25, 0.5, 0.75):
        yield _one(sets, f"{zeroed:.0%} zeroed", replace(settings, zeroed=zeroed))


def _size(sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    training, held_out = sets[0].sides
    order = sorted(training, key=lambda pair: hashlib.sha256(f"{settings.seed}:{pair.id}".encode()).digest())
    for name, part in SIZES.items():
        chosen = order[: max(1, len(order) // part)]
        yield Variant(
            f"{name} ({len(chosen):,} samples)",
            replace(settings, epochs=settings.epochs * part),
            chosen,
            {"": held_out},
        )


def _length(sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    short, long = sorted(sets, key=_tokens)
    if short.relevance != long.relevance or _tokens(short) == _tokens(long):
        raise UserError(
            f"ablation length: {short.folder} and {long.folder} must have visual tokens of different number and "
            "relevance of the same kind"
        )
    tests = {f"tested on {_tokens(data):,.0f} tokens": data.sides[1] for data in (short, long)}
    for scale in SCALES:
        for data, measured in ((short, tests), (long, dict([list(tests.items())[1]]))):
            name = f"input {scale}, trained on {_tokens(data):,.0f} tokens"
            yield Variant(name, replace(settings, input_scale=scale), data.sides[0], measured)


def _teacher(option: str, order: Sequence[Any], sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    """Compressors taught by relevance of different kinds, each measured against its own kind."""
    by_value = {data.relevance.get(option): data for data in sets}
    first = sets[0]
    for data in sets[1:]:
        differs = [
            name
            for name in (first.manifest.keys() | data.manifest.keys()) - {"relevance", *FREE}
            if first.manifest.get(name) != data.manifest.get(name)
        ]
        differs += [
            name for name in first.relevance if name != option and first.relevance[name] != data.relevance.get(name)
        ]
        if differs:
            raise UserError(
                f"ablation {option}: {first.folder} and {data.folder} were collected with another {differs[0]}, too"
            )
    if len(by_value) < len(sets) or not by_value.keys() <= set(order):
        values = ", ".join(str(data.relevance.get(option)) for data in sets)
        raise UserError(f"ablation {option}: the training sets were collected with {option} {values}; each must differ")
    for value in (value for value in order if value in by_value):
        training, held_out = by_value[value].sides
        yield Variant(f"{option} {value}", settings, training, {f"against relevance of {option} {value}": held_out})


def _one(sets: Sequence[Data], name: str, settings: Settings) -> Variant:
    training, held_out = sets[0].sides
    return Variant(name, settings, training, {"": held_out})


def _tokens(data: Data) -> float:
    return fmean(len(pair.attention) for pair in data.pairs)


_OWN = (
    "Each compressor is measured against relevance of the kind that taught it: which kind serves the answers better, "
    "the answers say."
)

ABLATIONS = {
    "depth": Ablation(
        "Depth of the compressor",
        f"Widths {'-'.join(map(str, DEPTHS))}, as many as there are layers; the paper has 5.",
        _depth,
    ),
    "kernel": Ablation("Kernel of the convolutions", "The paper has 3.", _kernel),
    "channels": Ablation("Channels of the five layers", "The paper has 32-64-128-256-512.", _channels),
    "zeroed": Ablation(
        "Share of the label set to zero", "The paper has 50%. KL is to the paper's label in every row.", _zeroed
    ),
    "size": Ablation(
        "Training samples", "All are trained for as many steps: of half the samples, twice the epochs.", _size
    ),
    "length": Ablation(
        "Trained on short inputs, tested on long ones",
        "The last row of each input scale was trained on long inputs.",
        _length,
        2,
        2,
    ),
    "head_weights": Ablation(
        "Relevance with the gradient, or of attention alone",
        _OWN,
        partial(_teacher, "head_weights", ("grad", "mean")),
        2,
        2,
    ),
    "clamp": Ablation(
        "Relevance with and without clamp",
        f"Without it, negative relevance counts as 0 in the label. {_OWN}",
        partial(_teacher, "clamp", (True, False)),
        2,
        2,
    ),
    "target": Ablation(
        "What relevance explains", _OWN, partial(_teacher, "target", ("logit", "margin", "logprob")), 2, 3
    ),
}
"""By name, in the order in which they are listed."""
