"""The language model of one micro checkpoint, put under another family's tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen2VLForConditionalGeneration

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
SOURCE = CHECKPOINTS / "micro-qwen2-vl"
_SPACE, _NEWLINE = "\u0120", "\u010a"


def grow(model: Any, tokenizer: Any, stands_for: Mapping[str, str]) -> None:
    """Copies the decoder and the words of micro-qwen2-vl into `model`, whose decoder has the same sizes.

    Biases that the new decoder lacks are dropped. A word that the source does not have as one token starts as the mean
    of its parts.

    Args:
        model: with `model.language_model` and `lm_head`.
        stands_for: special token of the new tokenizer -> the source's token that it starts as.
    """
    source: Any = Qwen2VLForConditionalGeneration.from_pretrained(SOURCE, dtype=torch.float32)
    known = Qwen2Tokenizer.from_pretrained(SOURCE)
    decoder, old = model.model.language_model, source.model.language_model
    with torch.no_grad():
        given = old.state_dict()
        for name, parameter in decoder.state_dict().items():
            if not name.startswith("embed_tokens"):
                parameter.copy_(given[name])
        parts = [_parts(piece, known, stands_for) for piece, _ in sorted(tokenizer.get_vocab().items(), key=_index)]
        decoder.embed_tokens.weight[: len(parts)] = _means(old.embed_tokens.weight, parts)
        model.lm_head.weight[: len(parts)] = _means(source.lm_head.weight, parts)


def _index(entry: tuple[str, int]) -> int:
    return entry[1]


def _parts(piece: str, known: Any, stands_for: Mapping[str, str]) -> list[int]:
    vocabulary = known.get_vocab()
    piece = stands_for.get(piece, piece)
    if piece in vocabulary:
        return [vocabulary[piece]]
    text = piece.replace(_SPACE, " ").replace(_NEWLINE, "\n")
    return known(text).input_ids


def _means(table: Tensor, parts: list[list[int]]) -> Tensor:
    return torch.stack([table[ids].mean(0) for ids in parts])
