"""Explainability relevance at any length (paper eq. 1): memory linear in the prompt, no attention map kept.

    R <- R + E_h(A * dY/dA) R      over layers first to last, from R = I; Y scores the generated token y_t.

Only row t of R is read, so that row alone is carried, from the last layer to the first: r <- r + r C. That is the order
in which a backward pass visits the layers, so r goes along with it as if it were one more gradient: every attention has
one more input, the `carry`, and in its backward pass hands on r + r C in place of a gradient.

One teacher-forced forward pass serves all T tokens of the response, since each row sees only what comes before it. Of
a long prompt it keeps what enters each layer and nothing else: the layers are run again one by one, last to first, and
the targets go back through each of them together, as many as memory allows. Of a short one it keeps everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model_wrappers.anatomy import embed, language_model
from model_wrappers.encoding import encode
from model_wrappers.prompt import VisualPrompt, as_batch
from model_wrappers.relevance import blocks
from model_wrappers.relevance.attention import single
from model_wrappers.relevance.targets import HeadWeights, Target, checked, frozen, scores

NAME = "retain_relevance"
"""The attention implementation, in transformers' AttentionInterface."""
TARGET_NUMBERS = 2**25
"""How many numbers the widest gradient of all targets in one pass may have: 128 MiB in float32."""
KEPT_NUMBERS = 2**26
"""A prompt is short when the activations of all layers are about as many numbers, or fewer: 256 MiB in float32."""


def visual_relevance(
    model: Any,
    inputs: Mapping[str, Any],
    response_ids: Tensor,
    *,
    head_weights: HeadWeights = "grad",
    clamp: bool = True,
    target: Target = "logit",
) -> Tensor:
    """Relevance of each visual token to a response, mean over the response's tokens.

    Args:
        model: any that `model_wrappers.compress` takes, on any attention kernel; it comes back as it was.
        inputs: what its processor returned for one prompt.
        response_ids: [T] long, the response, T >= 1.
        head_weights: `grad`: C = mean over heads of A * dY/dA (eq. 1). `mean`: C = mean over heads of A (Table 4).
        clamp: with `grad`, negatives of A * dY/dA become 0 per head before the mean, as the code of [6] does.
        target: with `grad`, what Y is: the `logit` of y_t, its `margin` over the runner-up, or its `logprob`.

    Returns:
        [N_v] float32.

    Raises:
        UserError: several prompts, an empty response, or an unknown option.
    """
    prompt = single(encode(model, inputs), "visual_relevance")
    return prompt_relevance(model, prompt, response_ids, head_weights=head_weights, clamp=clamp, target=target)


def prompt_relevance(
    model: Any,
    prompt: VisualPrompt,
    response_ids: Tensor,
    *,
    head_weights: HeadWeights = "grad",
    clamp: bool = True,
    target: Target = "logit",
) -> Tensor:
    """`visual_relevance` of an encoded prompt: [N_v] float32."""
    response_ids = checked(prompt, response_ids, head_weights, target)
    # inference_mode(False) as well as the grad switches below: the caller may sit in either, and vlmeval turns
    # gradients off for good.
    with torch.inference_mode(False), torch.no_grad(), frozen(model), _attention_of(model):
        if head_weights == "mean":
            total = _mean(model, prompt, response_ids)
        elif _kept_numbers(model, prompt) <= KEPT_NUMBERS:
            total = _whole(model, prompt, response_ids, target, clamp)
        else:
            total = _layer_by_layer(model, prompt, response_ids, target, clamp)
    return total[prompt.visual_rows].float() / len(response_ids)


@dataclass
class _Carry:
    """Goes along with the hidden states: each attention takes `row` [1, n] in and leaves its output in its place."""

    row: Tensor
    clamp: bool
    first_row: int
    """The first row that predicts a token. In the last layer no row before it has a gradient."""


@dataclass
class _Maps:
    """Collects what attention maps are made of: by layer queries, keys, scaling and window."""

    layers: list[tuple[Tensor, Tensor, float, int | None]] = field(default_factory=list)


def _whole(model: Any, prompt: VisualPrompt, response_ids: Tensor, target: Target, clamp: bool) -> Tensor:
    """The sum over the response's tokens of their rows of R, [n], through one graph of all layers."""
    rows = _rows(prompt, response_ids)
    with torch.enable_grad():
        # The embeddings ask for no gradient, so in the first layer only the relevance goes back through the attention.
        start = torch.zeros((1, int(rows[-1]) + 1), device=rows.device, requires_grad=True)
        carry = _Carry(start, clamp, int(rows[0]))
        hidden = _teacher_forced(model, prompt, response_ids, carry)
        score = scores(model.lm_head(hidden[0, rows]).float(), response_ids, target)
    down = partial(torch.autograd.grad, (score, carry.row), (start,))
    [relevance] = torch.func.vmap(down)((torch.eye(len(rows), device=rows.device), _unit(rows, start)))
    return relevance[:, 0].sum(dim=0)


def _layer_by_layer(model: Any, prompt: VisualPrompt, response_ids: Tensor, target: Target, clamp: bool) -> Tensor:
    """The same, keeping only what enters each layer."""
    rows, decoder = _rows(prompt, response_ids), language_model(model)
    entered: list[tuple[Any, Tensor, dict[str, Any]]] = []

    def keep(layer: Any, arguments: tuple[Any, ...], settings: dict[str, Any]) -> None:
        entered.append((layer, arguments[0], settings))

    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in decoder.layers]
    try:
        length = _teacher_forced(model, prompt, response_ids, None).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    several = max(1, TARGET_NUMBERS // (length * _widest(model)))
    total = torch.zeros(length, device=rows.device)
    for part in torch.arange(len(rows), device=rows.device).split(several):
        total += _down(model, entered, rows[part], response_ids[part], target, _Carry(total, clamp, int(rows[0])))
    return total


def _down(
    model: Any,
    entered: list[tuple[Any, Tensor, dict[str, Any]]],
    rows: Tensor,
    tokens: Tensor,
    target: Target,
    carry: _Carry,
) -> Tensor:
    """One pass from the last layer to the first for the targets `tokens`, which `rows` predict: [n]."""
    above: Tensor | None = None
    start = carry.row.new_zeros((1, carry.row.shape[-1]), requires_grad=True)
    relevance = _unit(rows, start)
    for number, (layer, before, settings) in reversed(list(enumerate(entered))):
        with torch.enable_grad():
            hidden = before.detach().requires_grad_(number > 0)
            carry.row = start
            after = layer(hidden, **{**settings, "relevance": carry})
            after = after[0] if isinstance(after, tuple) else after
            if above is None:
                logits = model.lm_head(language_model(model).norm(after[0, rows])).float()
                after, above = scores(logits, tokens, target), torch.eye(len(rows), device=rows.device)
        down = partial(torch.autograd.grad, (after, carry.row), (start, hidden) if number else (start,))
        found = torch.func.vmap(down)((above, relevance))
        relevance, above = found[0], found[-1]
    return relevance[:, 0].sum(dim=0)


def _mean(model: Any, prompt: VisualPrompt, response_ids: Tensor) -> Tensor:
    """The sum of the rows of R where C is the mean attention: no gradient, so no backward pass."""
    rows, maps = _rows(prompt, response_ids), _Maps()
    length = _teacher_forced(model, prompt, response_ids, maps).shape[1]
    relevance = _unit(rows, torch.zeros((1, length), device=rows.device))[:, 0]
    for query, key, scaling, window in reversed(maps.layers):
        relevance = relevance + blocks.carry_mean(query, key, relevance, scaling=scaling, window=window)
    return relevance.sum(dim=0)


def _rows(prompt: VisualPrompt, response_ids: Tensor) -> Tensor:
    """[T] long: the rows that predict the response."""
    first = prompt.input_ids.shape[0] - 1
    return torch.arange(first, first + len(response_ids), device=response_ids.device)


def _unit(rows: Tensor, like: Tensor) -> Tensor:
    """[T, 1, n]: for each row the vector that is 1 there, the last layer's relevance."""
    return torch.zeros((len(rows), *like.shape), device=like.device).scatter_(2, rows[:, None, None], 1.0)


def _widest(model: Any) -> int:
    config = language_model(model).config
    return max(config.intermediate_size, config.hidden_size)


def _kept_numbers(model: Any, prompt: VisualPrompt) -> int:
    """About how many numbers the layers would keep for a backward pass."""
    config = language_model(model).config
    a_row = 4 * config.intermediate_size + 12 * config.hidden_size
    return prompt.input_ids.shape[0] * len(language_model(model).layers) * a_row


def _teacher_forced(model: Any, prompt: VisualPrompt, response_ids: Tensor, relevance: _Carry | _Maps | None) -> Tensor:
    """Last hidden states [1, n, d] of one forward over the prompt and the response but its last token."""
    # The clone makes an ordinary tensor of what may have been made in inference mode.
    embeds = prompt.inputs_embeds.detach().clone()
    embeds = torch.cat((embeds, embed(model, response_ids[:-1]).to(embeds.dtype)))
    after = torch.arange(1, len(response_ids), device=embeds.device)
    positions = torch.cat((prompt.position_ids, prompt.position_ids[:, -1:] + after), dim=1)
    return language_model(model)(
        inputs_embeds=embeds[None], position_ids=as_batch(positions), use_cache=False, relevance=relevance
    ).last_hidden_state


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
        return _attend(query, key, value, scaling, window), carry.clone()

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
    found = blocks.backward(
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


def _batched(info: Any, dims: tuple[int | None, ...], *arguments: Any) -> tuple[list[Tensor], list[int]]:
    """Several targets: the gradient [G, 1, H, n, d] and the relevance [G, 1, n] have one more dimension, first."""
    grad_output, relevance = (
        value[None].expand(info.batch_size, *value.shape) if at is None else value.movedim(at, 0)
        for value, at in zip(arguments[3:5], dims[3:5], strict=True)
    )
    found = _backward(*arguments[:3], grad_output[:, 0], relevance[:, 0], *arguments[5:])
    return [one[:, None] if one.numel() else one.expand(info.batch_size, 0) for one in found], [0] * len(found)


_backward.register_vmap(_batched)


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
    """Causal attention [1, H, n, d] by torch's fused kernels."""
    fused = torch.nn.functional.scaled_dot_product_attention
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    length = query.shape[2]
    if window is None or window >= length:
        return fused(query, key, value, is_causal=True, scale=scaling)
    parts = []
    for start in range(0, length, window):  # whose mask is small: each block sees two windows at most
        stop, low = min(start + window, length), max(0, start - window + 1)
        rows = torch.arange(start, stop, device=query.device)[:, None]
        columns = torch.arange(low, stop, device=query.device)
        near = (columns <= rows) & (columns > rows - window)
        parts.append(
            fused(query[:, :, start:stop], key[:, :, low:stop], value[:, :, low:stop], attn_mask=near, scale=scaling)
        )
    return torch.cat(parts, dim=2)


def _attention_interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    relevance: _Carry | _Maps | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """One prompt without padding, as transformers' AttentionInterface calls it."""
    if isinstance(relevance, _Carry):
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
def _attention_of(model: Any) -> Iterator[None]:
    """The decoder on this attention; its own one is put back."""
    config = language_model(model).config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
