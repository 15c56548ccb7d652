"""Attention of a few rows, computed beside the model: O(rows x length) memory, whatever kernel the model runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model_wrappers.anatomy import language_model
from model_wrappers.encoding import encode
from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt, as_batch


def first_layer_attention(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """A_v^0 (paper section 3.3): what each visual token receives from the instruction in the first layer.

    Needs no forward pass: layer 0's norm and projections, RoPE and a softmax. The instruction is all rows after the
    last visual token; post-softmax attention, mean over heads, then over those rows. Equals an eager run's
    `output_attentions` to 1e-5 in float32.

    Args:
        model: any that `model_wrappers.compress` takes.
        inputs: what its processor returned for one prompt.

    Returns:
        [N_v] float32.

    Raises:
        UserError: if `inputs` holds several prompts.
    """
    return prompt_first_layer_attention(model, single(encode(model, inputs), "first_layer_attention"))


@torch.no_grad()
def prompt_first_layer_attention(model: Any, prompt: VisualPrompt) -> Tensor:
    """A_v^0 of an encoded prompt: [N_v] float32. Where a visual token ends the prompt, its last row stands for text."""
    decoder = language_model(model)
    length = prompt.inputs_embeds.shape[0]
    start = min(int(prompt.visual_rows[-1]) + 1, length - 1) if prompt.n_visual else 0
    cos, sin = decoder.rotary_emb(prompt.inputs_embeds[None], as_batch(prompt.position_ids))
    rows = attention_rows(decoder.layers[0], prompt.inputs_embeds, start, length, (cos[0], sin[0]))
    return rows[:, prompt.visual_rows].mean(dim=0)


@torch.no_grad()
def attention_rows(layer: Any, hidden: Tensor, start: int, stop: int, position_embeddings: Any) -> Tensor:
    """`attention_of` the rows start..stop-1."""
    return attention_of(layer, hidden, torch.arange(start, stop, device=hidden.device), position_embeddings)


@torch.no_grad()
def attention_of(layer: Any, hidden: Tensor, rows: Tensor, position_embeddings: Any) -> Tensor:
    """Post-softmax causal attention of some rows to all, mean over heads.

    Args:
        layer: a decoder layer (`input_layernorm`, `self_attn` with q_proj, k_proj, head_dim, scaling).
        hidden: [L, d], what enters the layer.
        rows: [r] long, sorted.
        position_embeddings: (cos, sin), each [L, head_dim].

    Returns:
        [r, L] float32; 0 where a row cannot look.
    """
    length = hidden.shape[0]
    logits = _logits(layer, hidden, rows, position_embeddings)
    if len(rows) > 1 or int(rows[0]) < length - 1:
        ahead = torch.arange(length, device=hidden.device) > rows[:, None]
        logits = logits.masked_fill(ahead, float("-inf"))
    return logits.softmax(dim=-1, dtype=torch.float32).mean(dim=0)


@torch.no_grad()
def placeless_attention_of(layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    """Post-softmax attention of some rows to all without positions: neither rotated nor causal.

    Arguments as of `attention_of`. Returns [heads, r, L] float32.
    """
    return _logits(layer, hidden, rows, None).softmax(dim=-1, dtype=torch.float32)


@torch.no_grad()
def keys(layer: Any, hidden: Tensor, position_embeddings: Any) -> Tensor:
    """[key heads, L, head_dim]: a layer's keys, rotated, as its KV cache holds them; arguments as of `attention_of`.

    Without position embeddings (None) they are not rotated.
    """
    key = layer.self_attn.k_proj(layer.input_layernorm(hidden)).view(hidden.shape[0], -1, layer.self_attn.head_dim)
    return _rotate(key.transpose(0, 1), *position_embeddings) if position_embeddings else key.transpose(0, 1)


def _logits(layer: Any, hidden: Tensor, rows: Tensor, position_embeddings: Any) -> Tensor:
    """[heads, r, L]: scaled products of some rows' queries with all keys; arguments as of `keys`."""
    attention = layer.self_attn
    query = attention.q_proj(layer.input_layernorm(hidden[rows])).view(len(rows), -1, attention.head_dim)
    query = query.transpose(0, 1)
    if position_embeddings:
        query = _rotate(query, *(part[rows] for part in position_embeddings))
    key = keys(layer, hidden, position_embeddings)
    # Grouped-query attention: the heads of a group share a key head, so fold them beside the rows instead of copying
    # keys.
    grouped = query.reshape(key.shape[0], -1, attention.head_dim)
    return (grouped @ key.transpose(1, 2) * attention.scaling).view(-1, len(rows), hidden.shape[0])


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on [heads, rows, head_dim], halves rotated against each other."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def single(prompts: list[VisualPrompt], what: str) -> VisualPrompt:
    """The one prompt of a batch of one.

    Raises:
        UserError: otherwise.
    """
    if len(prompts) != 1:
        raise UserError(f"{what} takes one prompt at a time, the inputs hold {len(prompts)}")
    return prompts[0]
