"""Floating-point operations of the visual tokens in the language model, as the paper counts them.

arXiv 2506.01097, appendix D, eq. 4 to 6 (a multiply-add is one operation; text tokens, heads of the vocabulary, grouped
keys and values, the vision encoder and decoding are left out). With n visual tokens, width d and FFN width m:

- a decoder layer, eq. 4: 4nd^2 + 2n^2d + 3ndm. The paper prints the last term as `lnm` with l = 3 matrices in the FFN;
  its own 11.69 T for n = 1568, d = 3584, m = 18944 and 28 layers needs the d.
- the first layer's attention from the text to the visual tokens, eq. 5: nd^2 + nd.
- the learned compressor's convolutions, eq. 6: the sum over its layers of n(C_in k + C_in C_out).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_wrappers.errors import UserError

FFN_MATRICES = 3
CHANNELS = (1, 32, 64, 128, 256, 512)
KERNEL = 3
"""The compressor of section 4.1: what goes into its first convolution, and what comes out of each of the five."""


@dataclass(frozen=True)
class Dimensions:
    """Of a language model: width of its states, width inside its FFN, number of decoder layers."""

    hidden: int
    ffn: int
    layers: int


def layer(n: float, dims: Dimensions) -> float:
    """Operations of one decoder layer on n visual tokens, eq. 4."""
    d = dims.hidden
    return 4 * n * d**2 + 2 * n**2 * d + FFN_MATRICES * n * d * dims.ffn


def language_model(tokens: Sequence[float], dims: Dimensions) -> float:
    """Operations of all decoder layers, of which the i-th works on `tokens[i]` visual tokens.

    Raises ValueError where there are not as many numbers as layers.
    """
    if len(tokens) != dims.layers:
        raise ValueError(f"{len(tokens)} numbers of tokens for {dims.layers} layers")
    return sum(layer(n, dims) for n in tokens)


def first_layer_attention(n: int, dims: Dimensions) -> float:
    """Operations of A_v^0 for n visual tokens, eq. 5: their keys, and the products with one query."""
    return n * dims.hidden**2 + n * dims.hidden


def convolutions(n: int) -> float:
    """Operations of the compressor's convolutions on n visual tokens, eq. 6."""
    return n * sum(a * KERNEL + a * b for a, b in zip(CHANNELS[:-1], CHANNELS[1:], strict=True))


def selection(method: str, n: int, dims: Dimensions) -> float | None:
    """Operations that a method adds to choose among n visual tokens, before any is cut.

    0 for methods that look at nothing, and for FastV, whose attention row is part of the forward pass. None where the
    paper's convention counts nothing: a method that runs the whole model first (`relevance`), or one of another
    package.
    """
    if method in ("vanilla", "random", "uniform", "fastv", "oracle", "anti-oracle"):
        return 0.0
    if method == "first_layer_attention":
        return first_layer_attention(n, dims)
    if method == "cnn":
        return first_layer_attention(n, dims) + convolutions(n)
    return None


def dimensions(checkpoint: Path) -> Dimensions:
    """The language model's dimensions, from a checkpoint's config.json (hub layout of VILA: llm/config.json).

    Raises UserError where the file cannot be read or does not say them.
    """
    path = checkpoint / "llm" / "config.json"
    path = path if path.is_file() else checkpoint / "config.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        config = {**content, **content.get("text_config", {})}
        return Dimensions(config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"])
    except KeyError as error:
        raise UserError(f"{path} does not say {error.args[0]} of the language model") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
