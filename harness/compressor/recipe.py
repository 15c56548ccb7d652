"""The ablation of the training itself: how long, and on attention as it is or divided by its mean.

Apart from `ablations`, whose code every row's key names: this one leaves the rows of the others as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.compressor.ablations import SCALES, Ablation, Variant
from harness.compressor.opened import Data
from harness.compressor.train import Settings

EPOCHS = (30, 100, 200)


def _recipe(sets: Sequence[Data], settings: Settings) -> Iterator[Variant]:
    training, held_out = sets[0].sides
    for scale in SCALES:
        for epochs in EPOCHS:
            varied = replace(settings, epochs=epochs, input_scale=scale)
            yield Variant(f"input {scale}, {epochs} epochs", varied, training, {"": held_out})


RECIPE = Ablation("Training longer, and on another input", "The paper trains 100 epochs on raw attention.", _recipe)
