"""What a model takes of a GPU's memory, from its shape: weights, KV cache, and the states of the layer at work.

Estimates, to tell an 8 GB card from a 24 GB one before 16 GB are downloaded; `retain efficiency` measures.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.flops import PromptSize, Shape
from harness.flops.shapes import Decoder, Tower

BYTES = 2
"""Of a number: weights run in 16 bits."""
CONTEXT = 1 << 30
"""What CUDA, its libraries and the allocator's slack take: an assumption."""
FORMULA = (
    "2 bytes x (parameters; 2 x layers x KV width x tokens; tokens x (6 x width + 3 x FFN width) of one layer, of all "
    "layers where `relevance` keeps them for its gradient) + 1 GiB"
)


@dataclass(frozen=True)
class Need:
    """Bytes by part."""

    weights: int
    cache: int
    states: int

    @property
    def total(self) -> int:
        """All parts, and `CONTEXT`."""
        return self.weights + self.cache + self.states + CONTEXT


def parameters(shape: Shape, tied: bool = False) -> int:
    """Weights of a model's matrices: decoder, embedding, output head (one where `tied`), vision tower, projector.

    Norms, biases and position embeddings are left out: below 1% of a published model.
    """
    decoder = shape.decoder
    layer = decoder.hidden * (2 * decoder.query + 2 * decoder.key) + 3 * decoder.hidden * decoder.ffn
    found = decoder.layers * layer + (1 if tied else 2) * decoder.vocabulary * decoder.hidden
    if shape.tower is not None:
        found += _tower(shape.tower, decoder)
    return found


def need(shape: Shape, prompt: PromptSize, *, tied: bool = False, gradients: bool = False) -> Need:
    """What answering one prompt takes. `gradients`: exact relevance, which keeps every layer's states."""
    tokens = prompt.length + prompt.response
    cache = sum(shape.decoder.kv_numbers(tokens) for _ in range(shape.decoder.layers))
    states = prompt.length * (6 * shape.decoder.hidden + 3 * shape.decoder.ffn)
    if gradients:
        states *= shape.decoder.layers
    if shape.tower is not None:
        tower = shape.tower
        patches = tower.patches * prompt.pictures if tower.patches is not None else prompt.visual * tower.merged
        states = max(states, patches * (6 * tower.hidden + 2 * tower.ffn))
    return Need(BYTES * parameters(shape, tied), round(BYTES * cache), BYTES * states)


def _tower(tower: Tower, decoder: Decoder) -> int:
    layer = 4 * tower.hidden**2 + 2 * tower.hidden * tower.ffn
    projector = tower.merged * tower.hidden * tower.inside + tower.inside * decoder.hidden
    return tower.layers * layer + tower.patch * tower.hidden + projector
