"""Explainability relevance at any length (paper eq. 1): memory linear in the prompt, no attention map kept.

    R <- R + E_h(A * dY/dA) R      over layers first to last, from R = I; Y scores the generated token y_t.

Only row t of R is read, so that row alone is carried, from the last layer to the first: r <- r + r C. That is the order
in which a backward pass visits the layers, so r goes along with it as if it were one more gradient: every attention has
one more input, the `carry`, and in its backward pass hands on r + r C in place of a gradient.

One teacher-forced forward pass serves all T tokens of the response, since each row sees only what comes before it. Of
a long prompt it keeps what enters each layer and nothing else: the layers are run again one by one, last to first, each
once, and all targets go back through it before the next, as many at a time as memory allows. Of a short one it keeps
everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model_wrappers.anatomy import embed, language_model
from model_wrappers.encoding import encode
from model_wrappers.prompt import VisualPrompt, as_batch
from model_wrappers.relevance import blocks
from model_wrappers.relevance.attention import single
from model_wrappers.relevance.carried import Carry, Maps, attention_of
from model_wrappers.relevance.targets import HeadWeights, Target, checked, frozen, scores

TARGET_NUMBERS = 2**25
"""How many numbers the widest gradient of all targets in one pass may have: 128 MiB in float32. On a GPU its free
memory decides."""
BETWEEN_NUMBERS = 2**28
"""The same for what all targets hand from layer to layer: 1 GiB in float32. Longer responses go down in groups."""
KEPT_NUMBERS = 2**26
"""A prompt is short when the activations of all layers, and the gradients of all targets in one of them, are about as
many numbers, or fewer: 256 MiB in float32."""


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

    It equals `textbook.textbook_relevance` to 1e-5 of the largest score in float32; in bfloat16, where the two round at
    other places, to 0.07 of it (the attention itself multiplies in float32, or sums in it products of rounded numbers).

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
    with torch.inference_mode(False), torch.no_grad(), frozen(model), attention_of(model):
        if head_weights == "mean":
            total = _mean(model, prompt, response_ids)
        elif _kept_numbers(model, prompt, len(response_ids)) <= KEPT_NUMBERS:
            total = _whole(model, prompt, response_ids, target, clamp)
        else:
            total = _layer_by_layer(model, prompt, response_ids, target, clamp)
    return total[prompt.visual_rows].float() / len(response_ids)


def _whole(model: Any, prompt: VisualPrompt, response_ids: Tensor, target: Target, clamp: bool) -> Tensor:
    """The sum over the response's tokens of their rows of R, [n], through one graph of all layers."""
    rows = _rows(prompt, response_ids)
    with torch.enable_grad():
        # The embeddings ask for no gradient, so in the first layer only the relevance goes back through the attention.
        start = torch.zeros((1, int(rows[-1]) + 1), device=rows.device, requires_grad=True)
        carry = Carry(start, clamp, int(rows[0]))
        hidden = _teacher_forced(model, prompt, response_ids, carry)
    of_rows = _of_scores(model.lm_head, hidden[0, rows], response_ids, target)
    down = partial(torch.autograd.grad, (hidden, carry.row), (start,))
    [relevance] = torch.func.vmap(down)((_spread(of_rows, rows, hidden), _unit(rows, start)))
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
    config = language_model(model).config
    together, at_a_time = _limits(config, length, model.dtype.itemsize, _free(rows.device))
    total = torch.zeros(length, device=rows.device)
    for group in torch.arange(len(rows), device=rows.device).split(together):
        carry = Carry(total, clamp, int(rows[0]))
        total += _down(model, entered, rows[group], response_ids[group], target, carry, at_a_time)
    return total


def _down(
    model: Any,
    entered: list[tuple[Any, Tensor, dict[str, Any]]],
    rows: Tensor,
    tokens: Tensor,
    target: Target,
    carry: Carry,
    at_a_time: int,
) -> Tensor:
    """From the last layer to the first for the targets `tokens`, which `rows` predict: the sum of their rows of R, [n].

    Each layer is run again once; the targets go back through it `at_a_time` together.
    """
    start = carry.row.new_zeros((1, carry.row.shape[-1]), requires_grad=True)
    # Of each part of the targets, the gradients from above [G, 1, n, d] and the relevance [G, 1, n].
    above: list[Tensor] = []
    relevance = list(_unit(rows, start).split(at_a_time))
    for number, (layer, before, settings) in reversed(list(enumerate(entered))):
        with torch.enable_grad():
            hidden = before.detach().requires_grad_(number > 0)
            carry.row = start
            after = layer(hidden, **{**settings, "relevance": carry})
            after = after[0] if isinstance(after, tuple) else after
        if not above:

            def head(row: Tensor) -> Any:
                return model.lm_head(language_model(model).norm(row))

            of_rows = _of_scores(head, after[0, rows], tokens, target).split(at_a_time)
            above = [_spread(part, at, after) for part, at in zip(of_rows, rows.split(at_a_time), strict=True)]
        inputs = (start, hidden) if number else (start,)
        for part in range(len(above)):
            more = part < len(above) - 1
            down = partial(torch.autograd.grad, (after, carry.row), inputs, retain_graph=more)
            found = torch.func.vmap(down)((above[part], relevance[part]))
            relevance[part], above[part] = found[0], found[-1]
    return torch.cat(relevance)[:, 0].sum(dim=0)


def _mean(model: Any, prompt: VisualPrompt, response_ids: Tensor) -> Tensor:
    """The sum of the rows of R where C is the mean attention: no gradient, so no backward pass."""
    rows, maps = _rows(prompt, response_ids), Maps()
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


def _of_scores(head: Callable[[Tensor], Any], hidden: Tensor, tokens: Tensor, target: Target) -> Tensor:
    """[T, d]: the gradient of each token's score with respect to the row of `hidden` [T, d] that predicts it.

    A score depends on its own row alone, so that one backward pass of their sum has them all.
    """
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_()
        total = scores(head(hidden).float(), tokens, target).sum()
    return torch.autograd.grad(total, hidden)[0]


def _spread(of_rows: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """[T, 1, n, d]: for each of T targets its gradient [d] at its row of n and 0 at the others."""
    made = of_rows.new_zeros((len(rows), *like.shape))
    made[torch.arange(len(rows), device=rows.device), 0, rows] = of_rows
    return made


def _limits(config: Any, length: int, itemsize: int, free: int | None) -> tuple[int, int]:
    """How many targets go down together, a layer after the other, and how many of them in one backward pass of it.

    Args:
        length: rows.
        itemsize: bytes of a number.
        free: bytes of memory, of which each may take a third; None: the constants above decide. The results differ by
            rounding at most.
    """
    if free is None:
        between = BETWEEN_NUMBERS // (length * config.hidden_size)
        in_a_pass = TARGET_NUMBERS // (length * max(config.intermediate_size, config.hidden_size, _of_a_block(config)))
    else:
        third = free // (3 * length * itemsize)
        between, in_a_pass = third // config.hidden_size, third // _going_back(config)
    return max(1, between), max(1, min(between, in_a_pass))


def _free(device: torch.device) -> int | None:
    """Bytes of a GPU's memory that are free, for torch; None for the CPU."""
    if device.type != "cuda":
        return None
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + idle)


def _of_a_row(config: Any) -> int:
    """About how many numbers a row makes in one layer: activations forward, or a target's gradients backward."""
    return int(4 * config.intermediate_size + 12 * config.hidden_size)


def _of_a_block(config: Any) -> int:
    """How many numbers a key has in a block of all heads' attention."""
    return int(config.num_attention_heads * blocks.ROWS)


def _going_back(config: Any) -> int:
    """About how many numbers a row makes in one layer for each target that goes back through it."""
    return _of_a_row(config) + 3 * _of_a_block(config)


def _kept_numbers(model: Any, prompt: VisualPrompt, response_length: int) -> int:
    """About how many numbers `_whole` holds: activations of all layers, and all targets' gradients in one of them."""
    config, layers = language_model(model).config, len(language_model(model).layers)
    length = prompt.input_ids.shape[0] + response_length - 1
    return length * (layers * _of_a_row(config) + response_length * _going_back(config))


def _teacher_forced(model: Any, prompt: VisualPrompt, response_ids: Tensor, relevance: Carry | Maps | None) -> Tensor:
    """Last hidden states [1, n, d] of one forward over the prompt and the response but its last token."""
    # The clone makes an ordinary tensor of what may have been made in inference mode.
    embeds = prompt.inputs_embeds.detach().clone()
    embeds = torch.cat((embeds, embed(model, response_ids[:-1]).to(embeds.dtype)))
    after = torch.arange(1, len(response_ids), device=embeds.device)
    positions = torch.cat((prompt.position_ids, prompt.position_ids[:, -1:] + after), dim=1)
    return language_model(model)(
        inputs_embeds=embeds[None], position_ids=as_batch(positions), use_cache=False, relevance=relevance
    ).last_hidden_state
