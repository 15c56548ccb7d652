"""How much memory the streaming form of relevance may take, and what that allows.

On the CPU constants decide, in numbers: four bytes each in float32. On a GPU the memory that is free does, of which
each may take a third. The results differ by rounding at most.
"""

from __future__ import annotations

from typing import Any

import torch

from model_wrappers.relevance import blocks

KEPT_NUMBERS = 2**25
"""What the graphs of the last layers may hold that are kept from the forward pass, and so not run again: 128 MiB in
float32. Of layers of the shape of a 0.5B Qwen2 the last 4 are kept at 512 rows, 2 at 1,536, and from 1,760 on the last
alone, of which little is run. A third one at 1,536 rows takes the process above a quarter of the textbook form's
memory: beside what is alive, glibc holds as much again in holes that its aligned allocations cannot use."""
TARGET_NUMBERS = 2**22
"""What the widest gradient of all targets in one pass may have. A CPU gains from several targets in one pass only where
a layer is small, as those of the micro models, which take 36 of 256 rows at once; of a 0.5B Qwen2 one at a time takes
as long as twelve, and at 512 rows 0.4 times the memory."""
BETWEEN_NUMBERS = 2**28
"""What all targets may hand from layer to layer. Longer responses go down in groups."""


def kept_layers(config: Any, length: int, itemsize: int, free: int | None) -> int:
    """How many layers' graphs are kept: the last one, of which little is run, and as many before it as may be.

    Args:
        config: of the language model.
        length: rows.
        itemsize: bytes of a number.
        free: bytes of a GPU's memory; None: a CPU.
    """
    budget = KEPT_NUMBERS if free is None else free // (3 * itemsize)
    return int(min(config.num_hidden_layers, 1 + budget // (length * _kept_of_a_row(config))))


def limits(config: Any, length: int, itemsize: int, free: int | None) -> tuple[int, int]:
    """How many targets go down together, a layer after the other, and how many of them in one backward pass of it.

    Arguments are those of `kept_layers`.
    """
    if free is None:
        between = BETWEEN_NUMBERS // (length * config.hidden_size)
        in_a_pass = TARGET_NUMBERS // (length * max(config.intermediate_size, config.hidden_size, _of_a_block(config)))
    else:
        third = free // (3 * length * itemsize)
        between, in_a_pass = third // config.hidden_size, third // _going_back(config)
    return max(1, between), max(1, min(between, in_a_pass))


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU's memory that are free, for torch; None for the CPU."""
    if device.type != "cuda":
        return None
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + idle)


def _kept_of_a_row(config: Any) -> int:
    """About how many numbers a row leaves in one layer's graph.

    With frozen weights a projection keeps nothing. The MLP keeps the three factors of its products, the attention
    queries, keys and values, each norm its input.
    """
    return int(3 * config.intermediate_size + 5 * config.hidden_size)


def _of_a_block(config: Any) -> int:
    """How many numbers a key has in a block of all heads' attention."""
    return int(config.num_attention_heads * blocks.ROWS)


def _going_back(config: Any) -> int:
    """About how many numbers a row makes in one layer for each target that goes back through it."""
    return int(4 * config.intermediate_size + 12 * config.hidden_size) + 3 * _of_a_block(config)
