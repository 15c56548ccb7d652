"""The textbook form of relevance, paper eq. 1 (after Chefer et al., generic attention explainability): maps kept.

The reference that `model_wrappers.relevance.streaming` is held to. About 1,500 visual tokens of a 7B model fill 80 GB.

    R <- R + E_h(A * dY/dA) R      over layers first to last, from R = I; Y scores the generated token y_t.

Only row t of R is read (the row that predicts y_t), so that row alone is carried, from the last layer to the first:
r <- r + r C. That equals the full product and costs O(n^2) a layer. One teacher-forced forward serves all T tokens,
since each row sees only what comes before it; every token has its own backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model_wrappers.anatomy import embed, language_model
from model_wrappers.prompt import VisualPrompt, as_batch
from model_wrappers.relevance.targets import HeadWeights, Target, checked, frozen, scores


def textbook_relevance(
    model: Any,
    prompt: VisualPrompt,
    response_ids: Tensor,
    *,
    head_weights: HeadWeights = "grad",
    clamp: bool = True,
    target: Target = "logit",
) -> Tensor:
    """What `streaming.prompt_relevance` returns, [N_v] float32, for the same arguments: the reference it is held to."""
    response_ids = checked(prompt, response_ids, head_weights, target)
    with_gradient = head_weights == "grad"
    # inference_mode(False) as well as enable_grad: the caller may sit in either, and vlmeval turns gradients off for
    # good.
    with torch.inference_mode(False), torch.set_grad_enabled(with_gradient), frozen(model), _eager(model):
        attentions, logits = _teacher_forced(model, prompt, response_ids, with_gradient)
        first = prompt.input_ids.shape[0] - 1
        total = torch.zeros(first + len(response_ids), device=logits.device)
        for step in range(len(response_ids)):
            row = first + step
            gradients: tuple[Tensor | None, ...] = (None,) * len(attentions)
            if with_gradient:
                score = scores(logits[step : step + 1], response_ids[step : step + 1], target)
                more = step < len(response_ids) - 1
                gradients = torch.autograd.grad(score, attentions, retain_graph=more)
            total += _carry(attentions, gradients, row, clamp)
    return total[prompt.visual_rows] / len(response_ids)


def _carry(attentions: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...], row: int, clamp: bool) -> Tensor:
    """Row `row` of R, [n] float32; the rows and columns after it are 0 by causality and are left out."""
    relevance = torch.zeros(attentions[0].shape[-1], device=attentions[0].device)
    relevance[row] = 1.0
    seen = slice(0, row + 1)
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        weights = attention.detach()[0, :, seen, seen].float()
        if gradient is not None:
            weights = weights * gradient[0, :, seen, seen].float()
            if clamp:
                weights = weights.clamp_(min=0)
        relevance[seen] += relevance[seen] @ weights.mean(dim=0)
    return relevance


def _teacher_forced(
    model: Any, prompt: VisualPrompt, response_ids: Tensor, with_gradient: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One forward over the prompt and the response but its last token.

    Returns the attention maps, one [1, heads, n, n] a layer, and the [T, vocabulary] logits of the rows that predict
    it.
    """
    steps = len(response_ids)
    tail = embed(model, response_ids[:-1])
    # The clone makes an ordinary tensor of what may have been made in inference mode.
    embeds = torch.cat((prompt.inputs_embeds.detach().clone(), tail.to(prompt.inputs_embeds.dtype)))
    embeds.requires_grad_(with_gradient)
    after = torch.arange(1, steps, device=embeds.device)
    positions = torch.cat((prompt.position_ids, prompt.position_ids[:, -1:] + after), dim=1)
    output = language_model(model)(
        inputs_embeds=embeds[None],
        position_ids=as_batch(positions),
        use_cache=False,
        output_attentions=True,
    )
    return output.attentions, model.lm_head(output.last_hidden_state[0, -steps:]).float()


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention maps exist only on the eager kernel; the model's own one is put back."""
    config = language_model(model).config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
