"""Explainability relevance at any length (paper eq. 1): memory linear in the prompt, no attention map kept.

    R <- R + E_h(A * dY/dA) R      over layers first to last, from R = I; Y scores the generated token y_t.

Only row t of R is read, so that row alone is carried, from the last layer to the first: r <- r + r C. That is the order
in which a backward pass visits the layers, so r goes along with it as if it were one more gradient: every attention has
one more input, the `carry`, and in its backward pass hands on r + r C in place of a gradient.

One teacher-forced forward pass serves all T tokens of the response, since each row sees only what comes before it. It
keeps the graph of as many of the last layers as `budget` allows, of a short prompt all; what `descent` finds below it
runs again, layer by layer, from what entered each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model_wrappers.encoding import encode
from model_wrappers.prompt import VisualPrompt
from model_wrappers.relevance import blocks
from model_wrappers.relevance.attention import single
from model_wrappers.relevance.carried import Maps, attention_of
from model_wrappers.relevance.descent import descended
from model_wrappers.relevance.forced import predicting, teacher_forced
from model_wrappers.relevance.targets import HeadWeights, Target, checked, frozen


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

    It equals `textbook.textbook_relevance`: in float64 to 4e-7 of the largest score, over 270 explanations of the three
    micro models. In float32 the two differ by 1e-6 in the median and 7e-5 at worst, where rounding alone moves the
    textbook form by as much (8e-5 at worst from float64, this one 7e-5); on small random models by less than 1e-5. In
    bfloat16 they round at other places, and there is no bound that holds everywhere: they differ by 2 to 3% of the
    largest score in the median and by 27% at worst there. From the same rounded weights in float32 streaming is 1.5 to
    2.3% away in the median and the textbook form 2.3 to 3.7%, since the attention here multiplies in float32, or sums
    in it products of rounded numbers. `retain bench` reports all of it. These are tiny models; of real ones nothing is
    known.

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
        else:
            total = descended(model, prompt, response_ids, target, clamp)
    return total[prompt.visual_rows].float() / len(response_ids)


def _mean(model: Any, prompt: VisualPrompt, response_ids: Tensor) -> Tensor:
    """The sum of the rows of R where C is the mean attention: no gradient, so no backward pass."""
    rows, maps = predicting(prompt, response_ids), Maps()
    teacher_forced(model, prompt, response_ids, maps)
    relevance = torch.nn.functional.one_hot(rows, int(rows[-1]) + 1).float()
    for query, key, scaling, window in reversed(maps.layers):
        relevance = relevance + blocks.carry_mean(query, key, relevance, scaling=scaling, window=window)
    return relevance.sum(dim=0)
