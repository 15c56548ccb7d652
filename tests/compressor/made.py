"""Samples in which relevance follows from attention in a known way, and training sets of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.compressor.dataset import Pair, TrainingSet
from harness.compressor.train import Settings

SMALL = Settings(epochs=60, channels=(16, 32), input_scale="mean")
"""A network that learns `planted` in seconds."""
SHIFT = 2


def planted(count: int, *, seed: int = 0, lengths: tuple[int, int] = (16, 32), groups: int | None = None) -> list[Pair]:
    """Relevance of a token is the attention to the one SHIFT before it: to be found by convolutions, not by attention.

    Args:
        lengths: the fewest and the most visual tokens.
        groups: how many videos they are about (default: each about its own).
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for number in range(count):
        n = int(torch.randint(lengths[0], lengths[1] + 1, (1,), generator=generator))
        attention = torch.rand(n, generator=generator) ** 4 / n
        relevance = attention.roll(SHIFT) * 10 + 1e-4 * torch.rand(n, generator=generator)
        group = f"video {number % (groups or count)}"
        pairs.append(Pair(f"{number:05}", group, "made", attention, relevance, [(1, 1, n)]))
    return pairs


def manifest(mllm: str = "some-mllm", **changes: Any) -> dict[str, Any]:
    """A dataset.json as `retain compressor collect` writes it."""
    relevance = {"target": "logit", "clamp": True, "head_weights": "grad"}
    model = {
        "name": mllm,
        "hub": f"someone/{mllm}",
        "revision": "main",
        "family": "qwen2_vl",
        "settings": {"frames": 8},
    }
    made = {
        "model": model,
        "media": "video",
        "max_visual": 1500,
        "relevance": relevance,
        "judge": "exact",
        "seed": 0,
        "sources": [{"name": "made", "where": "nowhere", "asked": 7, "available": 9, "left_out": {}, "short": 0}],
    }
    return {**made, **changes}


def written(folder: Path, pairs: list[Pair], **changes: Any) -> Path:
    """A training set of these samples, and of one that was answered wrong."""
    with TrainingSet.create(folder, manifest(**changes)) as made:
        record = {"media": "video", "question": "?", "answer": "a", "response": "a"}
        for pair in pairs:
            own = {"id": pair.id, "source": pair.source, "group": pair.group}
            sizes = {"n_visual": len(pair.attention), "grids": [list(grid) for grid in pair.grids]}
            made.add({**record, **own, **sizes}, pair.attention, pair.relevance)
        lost = {"id": "lost", "source": "made", "group": "video 0", "n_visual": 4, "grids": [[1, 1, 4]]}
        made.drop({**record, **lost}, "wrong answer")
    return folder
