"""A decoder's forward pass written out over the Hugging Face modules' own weights, for training on a CPU.

Plain matrix products (three times faster than SDPA at this size), block-diagonal masks for packed questions, and taps
for auxiliary targets. Qwen2-VL's, Qwen2's and Llama's decoders differ in their positions and biases only.
tests/micro/test_training.py holds it against Hugging Face.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb


def decode_text(
    model: Any, embeds: Tensor, positions: Tensor, mask: Tensor, dropout: float = 0.0
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The language model's normed output float [R, S, d], every layer's output and attention [R, heads, S, S].

    Args:
        embeds: float [R, S, d].
        positions: LongTensor [3, R, S]; for one-dimensional positions all three are the same.
        mask: bool [R, S, S], what each token sees.
        dropout: share of the attention weights set to zero.
    """
    text = model.model.language_model
    three = hasattr(text.rotary_emb, "mrope_section")
    cos, sin = text.rotary_emb(embeds, positions if three else positions[0])
    hidden, taps, attentions = embeds, [], []
    rows, size, _ = embeds.shape
    for layer in text.layers:
        attention = layer.self_attn
        heads, groups = text.config.num_key_value_heads, attention.num_key_value_groups
        width = attention.head_dim
        x = layer.input_layernorm(hidden)
        q = attention.q_proj(x).view(rows, size, -1, width).transpose(1, 2)
        k = attention.k_proj(x).view(rows, size, heads, width).transpose(1, 2)
        v = attention.v_proj(x).view(rows, size, heads, width).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, cos.to(q.dtype), sin.to(q.dtype))
        scores = (q * attention.scaling).reshape(rows, heads, groups * size, width) @ k.transpose(2, 3)
        bias = torch.zeros(mask.shape, dtype=scores.dtype).masked_fill_(~mask, -1e4)
        weights = (scores.view(rows, heads, groups, size, size) + bias[:, None, None]).softmax(-1, dtype=scores.dtype)
        attentions.append(weights.flatten(1, 2))
        weights = F.dropout(weights, dropout) if dropout else weights
        mixed = weights.view(rows, heads, groups * size, size) @ v
        mixed = mixed.view(rows, heads * groups, size, width).transpose(1, 2).flatten(2)
        hidden = hidden + attention.o_proj(mixed)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        taps.append(hidden)
    return text.norm(hidden), taps, attentions


def sees(pack: Tensor) -> Tensor:
    """bool [R, S, S]: each token sees the earlier tokens of the shared prefix and of its own question."""
    size = pack.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    same = (pack[:, None, :] == 0) | (pack[:, None, :] == pack[:, :, None])
    return causal & same
