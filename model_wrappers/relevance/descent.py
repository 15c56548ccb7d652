"""The way down of the streaming form of relevance: gradients and relevance from the last layer to the first.

One forward pass keeps the graph of the last layers, as many as memory allows, and of each layer below what enters it.
Those are run again one by one, last to first, each once, and all targets go back through it before the next, as many
at a time as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model_wrappers.anatomy import language_model
from model_wrappers.prompt import VisualPrompt
from model_wrappers.relevance.budget import free_bytes, kept_layers, limits
from model_wrappers.relevance.carried import Carry
from model_wrappers.relevance.forced import predicting, teacher_forced
from model_wrappers.relevance.targets import Target, scores


@dataclass
class _Graph:
    """Of one layer, or of the last ones: from what enters, the carry and the hidden states, to what leaves.

    Nothing below the first layer is asked for, so there only the relevance goes back through the attention.
    """

    entering: list[Tensor]
    leaving: tuple[Tensor, Tensor]
    again: bool = False
    """Whether other targets go back through it later."""


@dataclass
class _Layer:
    """What is kept of a layer that is run again: the hidden states [1, n, d] that enter it, and its other arguments."""

    module: Any
    before: Tensor
    settings: dict[str, Any]


def descended(model: Any, prompt: VisualPrompt, response_ids: Tensor, target: Target, clamp: bool) -> Tensor:
    """The sum over the response's tokens of their rows of R, [n]."""
    rows, config, itemsize = predicting(prompt, response_ids), language_model(model).config, model.dtype.itemsize
    length = int(rows[-1]) + 1
    start = torch.zeros((1, length), device=rows.device, requires_grad=True)
    carry = Carry(start, clamp, int(rows[0]))
    top, below = _ascended(
        model, prompt, response_ids, carry, kept_layers(config, length, itemsize, free_bytes(rows.device))
    )
    of_rows = _of_scores(model.lm_head, top.leaving[0][0], response_ids, target)
    together, at_a_time = limits(config, length, itemsize, free_bytes(rows.device))
    total = torch.zeros(length, device=rows.device)
    for group in torch.arange(len(rows), device=rows.device).split(together):
        top.again = int(group[-1]) < len(rows) - 1
        # Of each part of the targets, the gradients from above [G, 1, n, d] and the relevance [G, 1, n].
        parts = group.split(at_a_time)
        above = [_spread(of_rows[part], part, top.leaving[0]) for part in parts]
        relevance = [_spread(torch.ones_like(part, dtype=total.dtype), rows[part], start) for part in parts]
        for graph in _downwards(top, below, carry, start):
            for part in range(len(above)):
                more = graph.again or part < len(above) - 1
                relevance[part], above[part] = _back(graph, above[part], relevance[part], more)
        total += torch.cat(relevance)[:, 0].sum(dim=0)
    return total


def _ascended(
    model: Any, prompt: VisualPrompt, response_ids: Tensor, carry: Carry, kept: int
) -> tuple[_Graph, list[_Layer]]:
    """The forward pass: the graph of the last `kept` layers, one or more, and the layers below it."""
    layers = language_model(model).layers
    lowest = len(layers) - kept
    below: list[_Layer] = []
    entering = [carry.row]

    def enter(number: int, layer: Any, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        hidden = arguments[0]
        if number < lowest:  # where nothing asks for a gradient, so that no graph is made
            below.append(_Layer(layer, hidden, settings))
            return None
        if number == lowest > 0:
            hidden = hidden.detach().requires_grad_()
            entering.append(hidden)
        return (hidden,), {**settings, "relevance": carry}

    hooks = [
        layer.register_forward_pre_hook(partial(enter, number), with_kwargs=True) for number, layer in enumerate(layers)
    ]
    try:
        with torch.enable_grad():
            hidden = teacher_forced(model, prompt, response_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return _Graph(entering, (hidden, carry.row)), below


def _downwards(top: _Graph, below: Sequence[_Layer], carry: Carry, start: Tensor) -> Iterator[_Graph]:
    """The kept graph, then that of each layer below it, made again when the one above has been gone through."""
    yield top
    for number, layer in reversed(list(enumerate(below))):
        with torch.enable_grad():
            carry.row, before = start, layer.before.detach().requires_grad_(number > 0)
            after = layer.module(before, **{**layer.settings, "relevance": carry})
            after = after[0] if isinstance(after, tuple) else after
        yield _Graph([start, before] if number else [start], (after, carry.row))


def _back(graph: _Graph, above: Tensor, relevance: Tensor, more: bool) -> tuple[Tensor, Tensor]:
    """Relevance [G, 1, n] and gradients [G, 1, n, d] where a graph is entered, of G targets.

    Args:
        above: [G, 1, n, d], the gradients where it is left.
        relevance: [G, 1, n], there.
        more: whether the graph is needed again.
    """
    down = partial(torch.autograd.grad, graph.leaving, graph.entering, retain_graph=more)
    if len(above) > 1:
        found = torch.func.vmap(down)((above, relevance))
    else:  # whose operators vmap would take apart
        found = tuple(one[None] for one in down((above[0], relevance[0])))
    return found[0], found[-1]


def _of_scores(head: Callable[[Tensor], Any], hidden: Tensor, tokens: Tensor, target: Target) -> Tensor:
    """[T, d]: the gradient of each token's score with respect to the row of `hidden` [T, d] that predicts it.

    A score depends on its own row alone, so that one backward pass of their sum has them all.
    """
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_()
        total = scores(head(hidden).float(), tokens, target).sum()
    return torch.autograd.grad(total, hidden)[0]


def _spread(of_rows: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """[T, *like.shape]: for each of T targets its part of `of_rows` at its row of `like` [1, n, ...]."""
    made = of_rows.new_zeros((len(rows), *like.shape))
    made[torch.arange(len(rows), device=rows.device), 0, rows] = of_rows
    return made
