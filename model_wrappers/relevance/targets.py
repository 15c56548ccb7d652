"""What relevance explains: the score Y of a generated token, the options that say how, and weights held still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt

HeadWeights = Literal["grad", "mean"]
Target = Literal["logit", "margin", "logprob"]


def checked(prompt: VisualPrompt, response_ids: Tensor, head_weights: str, target: str) -> Tensor:
    """The response as a LongTensor [T] on the prompt's device.

    Raises:
        UserError: an unknown option, or a response that is empty or no row of ids.
    """
    for value, allowed, name in ((head_weights, HeadWeights, "head_weights"), (target, Target, "target")):
        if value not in get_args(allowed):
            raise UserError(f"relevance: {name}={value!r}, allowed are {', '.join(get_args(allowed))}")
    response_ids = torch.as_tensor(response_ids, dtype=torch.long, device=prompt.inputs_embeds.device)
    if response_ids.ndim != 1 or not len(response_ids):
        raise UserError(f"relevance: response_ids of shape {tuple(response_ids.shape)}; give [T] with T of 1 or more")
    return response_ids


def scores(logits: Tensor, tokens: Tensor, target: Target) -> Tensor:
    """Y of each row: [T] from logits [T, vocabulary] and the tokens [T] that they predict."""
    chosen = logits.gather(1, tokens[:, None])[:, 0]
    if target == "logprob":
        return chosen - logits.logsumexp(dim=-1)
    if target == "margin":
        others = logits.detach().scatter(1, tokens[:, None], float("-inf"))
        return chosen - logits.gather(1, others.argmax(dim=-1, keepdim=True))[:, 0]
    return chosen


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No weight asks for a gradient, so no backward pass stores or computes one; the flags are put back."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
