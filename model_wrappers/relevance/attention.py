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
    """Post-softmax causal attention of rows start..stop-1 to rows 0..stop-1, mean over heads.

    Args:
        layer: a decoder layer (`input_layernorm`, `self_attn` with q_proj, k_proj, head_dim, scaling).
        hidden: [L, d], what enters the layer.
        position_embeddings: (cos, sin), each [L, head_dim].

    Returns:
        [stop - start, L] float32; 0 where a row cannot look.
    """
    attention = layer.self_attn
    length = hidden.shape[0]
    cos, sin = position_embeddings
    normed = layer.input_layernorm(hidden)
    query = attention.q_proj(normed[start:stop]).view(stop - start, -1, attention.head_dim).transpose(0, 1)
    key = attention.k_proj(normed).view(length, -1, attention.head_dim).transpose(0, 1)
    query = _rotate(query, cos[start:stop], sin[start:stop])
    key = _rotate(key, cos, sin)
    # Grouped-query attention: the heads of a group share a key head, so fold them beside the rows instead of copying
    # keys.
    grouped = query.reshape(key.shape[0], -1, attention.head_dim)
    logits = (grouped @ key.transpose(1, 2) * attention.scaling).view(-1, stop - start, length)
    if stop - start > 1 or stop < length:
        ahead = torch.arange(length, device=hidden.device) > torch.arange(start, stop, device=hidden.device)[:, None]
        logits = logits.masked_fill(ahead, float("-inf"))
    return logits.softmax(dim=-1, dtype=torch.float32).mean(dim=0)


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
