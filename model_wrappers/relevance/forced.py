"""One teacher-forced forward pass over a prompt and its response, as `streaming` needs it: nothing after what it reads.

Of the last hidden states the rows that predict the response are read. So the last layer's other rows end at its
attention, to which they give keys and values: what mixes no rows (o_proj, the MLP, the norms) is run on the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model_wrappers.anatomy import embed, language_model
from model_wrappers.prompt import VisualPrompt, as_batch
from model_wrappers.relevance.carried import Maps


def predicting(prompt: VisualPrompt, response_ids: Tensor) -> Tensor:
    """[T] long: the rows that predict the response; the last of them is the last row of the pass."""
    first = prompt.input_ids.shape[0] - 1
    return torch.arange(first, first + len(response_ids), device=response_ids.device)


def teacher_forced(model: Any, prompt: VisualPrompt, response_ids: Tensor, maps: Maps | None = None) -> Tensor:
    """Last hidden states [1, T, d], normed, of the rows that predict the response.

    One forward over the prompt and the response but its last token. `maps` collects what attention is made of.
    """
    # The clone makes an ordinary tensor of what may have been made in inference mode.
    embeds = prompt.inputs_embeds.detach().clone()
    embeds = torch.cat((embeds, embed(model, response_ids[:-1]).to(embeds.dtype)))
    after = torch.arange(1, len(response_ids), device=embeds.device)
    positions = torch.cat((prompt.position_ids, prompt.position_ids[:, -1:] + after), dim=1)
    with _last_layer_from(model, prompt.input_ids.shape[0] - 1):
        return language_model(model)(
            inputs_embeds=embeds[None], position_ids=as_batch(positions), use_cache=False, relevance=maps
        ).last_hidden_state


@contextmanager
def _last_layer_from(model: Any, first: int) -> Iterator[None]:
    """What follows the last layer's attention is run on the rows from `first` alone.

    The layer adds what o_proj and the MLP return to all rows of the residual stream: there the rows before are 0.
    """
    decoder = language_model(model)
    layer = decoder.layers[-1]

    def trim(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (arguments[0][:, first:], *arguments[1:])

    def pad(module: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return torch.nn.functional.pad(output, (0, 0, first, 0))

    trimmed = (layer.self_attn.o_proj, layer.post_attention_layernorm, decoder.norm)
    hooks = [module.register_forward_pre_hook(trim) for module in trimmed]
    hooks += [module.register_forward_hook(pad) for module in (layer.self_attn.o_proj, layer.mlp)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
