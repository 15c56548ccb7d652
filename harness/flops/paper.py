"""The counting convention `paper`: operations of the visual tokens in the language model, as arXiv 2506.01097 has them.

Appendix D, eq. 4 to 6: a multiply-add is one operation, and text tokens, the output head, the grouping of keys and
values, the vision encoder and decoding are left out. With n visual tokens, width d and FFN width m:

- a decoder layer, eq. 4: 4nd^2 + 2n^2d + 3ndm. The paper prints the last term as `lnm` with l = 3 matrices in the FFN;
  its own 11.69 T for n = 1568, d = 3584, m = 18944 and 28 layers needs the d.
- the first layer's attention from the text to the visual tokens, eq. 5, and the learned compressor's convolutions,
  eq. 6: `Method.paper_flops` of the methods that have them.
"""

from __future__ import annotations

from collections.abc import Sequence

from model_wrappers.shape import Decoder

FFN_MATRICES = 3


def layer(n: float, decoder: Decoder) -> float:
    """Operations of one decoder layer on n visual tokens, eq. 4."""
    d = decoder.hidden
    return 4 * n * d**2 + 2 * n**2 * d + FFN_MATRICES * n * d * decoder.ffn


def language_model(tokens: Sequence[float], decoder: Decoder) -> float:
    """Operations of all decoder layers, of which the i-th works on `tokens[i]` visual tokens.

    Raises ValueError where there are not as many numbers as layers.
    """
    if len(tokens) != decoder.layers:
        raise ValueError(f"{len(tokens)} numbers of tokens for {decoder.layers} layers")
    return sum(layer(n, decoder) for n in tokens)
