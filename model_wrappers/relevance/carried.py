"""Causal attention with a row of relevance beside it: the attention implementation of `streaming`.

Every attention has one more input, the carry, and in its backward pass hands on r + r C in place of a gradient
(paper eq. 1, one row of it). Forward by torch's fused kernels, backward by blocks of query rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model_wrappers.anatomy import language_model
from model_wrappers.relevance import blocks

NAME = "retain_relevance"
"""The attention implementation, in transformers' AttentionInterface."""


@dataclass
class Carry:
    """Goes along with the hidden states: each attention takes `row` [1, n] in and leaves its output in its place."""

    row: Tensor
    clamp: bool
    first_row: int
    """The first row that predicts a token. In the last layer no row before it has a gradient."""


@dataclass
class Maps:
    """Collects what attention maps are made of: by layer queries, keys, scaling and window."""

    layers: list[tuple[Tensor, Tensor, float, int | None]] = field(default_factory=list)


class _Attention(torch.autograd.Function):
    """Causal attention with one more input and output, the carry [1, n], whose gradient is a row of relevance."""

    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        carry: Tensor,
        scaling: float,
        clamp: bool,
        window: int | None,
        first_row: int,
    ) -> tuple[Tensor, Tensor]:
        return _attend(query, key, value, scaling, window, first_row), carry.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.how = inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, relevance: Tensor) -> Any:
        found = _backward(*ctx.saved_tensors, grad_output, relevance, *ctx.how, any(ctx.needs_input_grad[:3]))
        *inputs, carried = found
        asked = [grad if needed else None for grad, needed in zip(inputs, ctx.needs_input_grad, strict=False)]
        return *asked, relevance + carried, None, None, None, None


@torch.library.custom_op("retain::relevance_backward", mutates_args=())
def _backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_output: Tensor,
    relevance: Tensor,
    scaling: float,
    clamp: bool,
    window: int | None,
    first_row: int,
    with_inputs: bool,
) -> list[Tensor]:
    """`blocks.backward` of one target; an operator of its own so that several at once reach it as one call.

    Args:
        query: [1, H, n, d]; key, value: [1, H_kv, n, d]; grad_output: [1, H, n, d]; relevance: [1, n].
    """
    found = _backend(query)(
        query[0],
        key[0],
        value[0],
        grad_output,
        relevance,
        scaling=scaling,
        clamp=clamp,
        window=window,
        first_row=first_row,
        with_inputs=with_inputs,
    )
    return list(found)


def _backend(query: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """`kernel.backward` where Triton runs it (a CUDA GPU), else `blocks.backward`."""
    if query.is_cuda and find_spec("triton") is not None:
        from model_wrappers.relevance import kernel  # imports Triton, which not every machine has

        if kernel.runs(query):
            return kernel.backward
    return blocks.backward


def _batched(info: Any, dims: tuple[int | None, ...], *arguments: Any) -> tuple[list[Tensor], list[int]]:
    """Several targets: the gradient [G, 1, H, n, d] and the relevance [G, 1, n] have one more dimension, first."""
    grad_output, relevance = (
        value[None].expand(info.batch_size, *value.shape) if at is None else value.movedim(at, 0)
        for value, at in zip(arguments[3:5], dims[3:5], strict=True)
    )
    found = _backward(*arguments[:3], grad_output[:, 0], relevance[:, 0], *arguments[5:])
    return [one[:, None] if one.numel() else one.expand(info.batch_size, 0) for one in found], [0] * len(found)


_backward.register_vmap(_batched)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, first_row: int = 0
) -> Tensor:
    """Causal attention [1, H, n, d] by torch's fused kernels; rows before `first_row` are left 0."""
    fused = torch.nn.functional.scaled_dot_product_attention
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    length = query.shape[2]
    size = window or length
    if size >= length and not first_row:
        return fused(query, key, value, is_causal=True, scale=scaling)
    parts = []
    for start in range(first_row, length, size):  # whose mask is small: a window's rows see two windows at most
        stop, low = min(start + size, length), max(0, start - size + 1)
        rows = torch.arange(start, stop, device=query.device)[:, None]
        columns = torch.arange(low, stop, device=query.device)
        near = (columns <= rows) & (columns > rows - size)
        parts.append(
            fused(query[:, :, start:stop], key[:, :, low:stop], value[:, :, low:stop], attn_mask=near, scale=scaling)
        )
    return torch.nn.functional.pad(torch.cat(parts, dim=2), (0, 0, first_row, 0))


def _attention_interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    relevance: Carry | Maps | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """One prompt without padding, as transformers' AttentionInterface calls it."""
    if isinstance(relevance, Carry):
        last = module.layer_idx == module.config.num_hidden_layers - 1
        how = (scaling, relevance.clamp, sliding_window, relevance.first_row if last else 0)
        output, relevance.row = _Attention.apply(query, key, value, relevance.row, *how)
    else:
        output = _attend(query, key, value, scaling, sliding_window)
        if relevance is not None:
            relevance.layers.append((query[0], key[0], scaling, sliding_window))
    return output.transpose(1, 2).contiguous(), None


def _no_mask(*arguments: Any, **settings: Any) -> None:
    """Causal and unpadded: the attention knows without one."""


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention_interface)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _no_mask)


@contextmanager
def attention_of(model: Any) -> Iterator[None]:
    """The decoder on this attention; its own one is put back."""
    config = language_model(model).config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
