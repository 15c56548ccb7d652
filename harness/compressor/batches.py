"""Samples of unequal lengths as padded batches in which no sample can tell that it is padded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.compressor.dataset import Pair
from harness.store import digest
from model_wrappers.compressor import label

PLACES = 2**17
"""How many places, padding included, go through the network at once: about 2 GB of activations in float32."""


class Batch(NamedTuple):
    """B samples padded to the longest of them, L places."""

    attention: Tensor
    """[B, L] float32, 0 where padded."""
    target: Tensor
    """[B, L] float32 probabilities, 0 where padded."""
    mask: Tensor
    """[B, L] bool, False where padded."""
    rows: list[int]
    """[B] which samples these are."""


class Samples:
    """What of a list of pairs is trained on or measured: A_v^0 and the label of each, ready to be batched.

    Args:
        pairs: each with a relevance above 0 somewhere (see `teachable`).
        zeroed: `label`'s.
    """

    def __init__(self, pairs: Sequence[Pair], zeroed: float = 0.5) -> None:
        self.attentions = [pair.attention.float() for pair in pairs]
        # Relevance collected without clamp has negative numbers, of which no share of a sum can be made.
        self.targets = [label(pair.relevance.float().clamp_min(0), zeroed=zeroed) for pair in pairs]

    def __len__(self) -> int:
        return len(self.attentions)

    def batches(self, rows: Sequence[int], device: torch.device, places: int = PLACES) -> Iterator[Batch]:
        """`rows` as batches of at most `places` places, those of like length together; a longer one goes alone."""
        by_length = sorted(rows, key=lambda row: (len(self.attentions[row]), row))
        batch: list[int] = []
        for row in by_length:
            if batch and (len(batch) + 1) * len(self.attentions[row]) > places:
                yield self._padded(batch, device)
                batch = []
            batch.append(row)
        if batch:
            yield self._padded(batch, device)

    def _padded(self, rows: list[int], device: torch.device) -> Batch:
        lengths = torch.tensor([len(self.attentions[row]) for row in rows])
        return Batch(
            pad_sequence([self.attentions[row] for row in rows], batch_first=True).to(device),
            pad_sequence([self.targets[row] for row in rows], batch_first=True).to(device),
            (torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
            rows,
        )


def teachable(pairs: Sequence[Pair]) -> list[Pair]:
    """Those of which a label can be made: relevance above 0 for at least one visual token."""
    return [pair for pair in pairs if len(pair.relevance) and float(pair.relevance.max()) > 0]


def pairs_digest(pairs: Sequence[Pair]) -> str:
    """sha256 over ids, groups and numbers of the samples in order."""
    return digest([[pair.id, pair.group, _bytes(pair.attention), _bytes(pair.relevance)] for pair in pairs])


def _bytes(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
