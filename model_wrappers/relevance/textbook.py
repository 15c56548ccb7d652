"""Explainability relevance, paper eq. 1 (after Chefer et al., generic attention explainability), attention maps kept.

    R <- R + E_h(A * dY/dA) R      over layers first to last, from R = I; Y scores the generated token y_t.

Only row t of R is read (the row that predicts y_t), so that row alone is carried, from the last layer to the first:
r <- r + r C. That equals the full product and costs O(n^2) a layer. One teacher-forced forward serves all T tokens,
since each row sees only what comes before it; every token has its own backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from model_wrappers.anatomy import embed, language_model
from model_wrappers.encoding import encode
from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt, as_batch
from model_wrappers.relevance.attention import single

HeadWeights = Literal["grad", "mean"]
Target = Literal["logit", "margin", "logprob"]


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
    for value, allowed, name in ((head_weights, HeadWeights, "head_weights"), (target, Target, "target")):
        if value not in get_args(allowed):
            raise UserError(f"relevance: {name}={value!r}, allowed are {', '.join(get_args(allowed))}")
    response_ids = torch.as_tensor(response_ids, dtype=torch.long, device=prompt.inputs_embeds.device)
    if response_ids.ndim != 1 or not len(response_ids):
        raise UserError(f"relevance: response_ids of shape {tuple(response_ids.shape)}; give [T] with T of 1 or more")
    with_gradient = head_weights == "grad"
    # inference_mode(False) as well as enable_grad: the caller may sit in either, and vlmeval turns gradients off for
    # good.
    with torch.inference_mode(False), torch.set_grad_enabled(with_gradient), _frozen(model), _eager(model):
        attentions, logits = _teacher_forced(model, prompt, response_ids, with_gradient)
        first = prompt.input_ids.shape[0] - 1
        total = torch.zeros(first + len(response_ids), device=logits.device)
        for step in range(len(response_ids)):
            row = first + step
            gradients: tuple[Tensor | None, ...] = (None,) * len(attentions)
            if with_gradient:
                score = _target(logits[step], response_ids[step], target)
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


def _target(logits: Tensor, token: Tensor, target: Target) -> Tensor:
    """Y: a scalar from the [vocabulary] logits of one row."""
    if target == "logprob":
        return logits.log_softmax(dim=-1)[token]
    if target == "margin":
        others = logits.detach().clone()
        others[token] = float("-inf")
        return logits[token] - logits[others.argmax()]
    return logits[token]


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


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No weight asks for a gradient, so no backward pass stores or computes one; the flags are put back."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
