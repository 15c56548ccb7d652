"""Relevance against the formula written out in full, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_wrappers import UserError, compress, encode, generate
from model_wrappers.registry import method
from model_wrappers.relevance import visual_relevance
from tests.model_wrappers.conftest import IMAGE, MIXED, VIDEO, load, padded_on_the_left, visual_of
from tests.model_wrappers.table import ONE_FAMILY, Family

RESPONSE = torch.tensor([65, 200, 7])


def literal_relevance(
    model: Any, inputs: Any, response: torch.Tensor, head_weights: str, clamp: bool, target: str
) -> torch.Tensor:
    """Eq. 1 as it stands: one forward a token on pixels and ids, full n x n products from R = I onwards."""
    model.set_attn_implementation("eager")
    visual = visual_of(model, inputs)
    total = torch.zeros(int(visual.sum()), dtype=torch.float64)
    try:
        for step in range(len(response)):
            seen = response[None, :step]
            longer = {
                **inputs,
                "input_ids": torch.cat((inputs["input_ids"], seen), dim=1),
                "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, step), value=1),
            }
            if "mm_token_type_ids" in inputs:
                longer["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, step))
            with torch.enable_grad():
                output = model(**longer, output_attentions=True)
                logits = output.logits[0, -1]
                token = response[step]
                score = logits[token]
                if target == "margin":
                    score = score - torch.cat((logits[:token], logits[token + 1 :])).max()
                elif target == "logprob":
                    score = score - logits.logsumexp(0)
                gradients = torch.autograd.grad(score, output.attentions)
            length = longer["input_ids"].shape[1]
            relevance = torch.eye(length, dtype=torch.float64)
            for attention, gradient in zip(output.attentions, gradients, strict=True):
                weights = attention[0].detach().double()
                if head_weights == "grad":
                    weights = weights * gradient[0].double()
                    weights = weights.clamp(min=0) if clamp else weights
                relevance = relevance + weights.mean(dim=0) @ relevance
            total += relevance[-1, :length][torch.nn.functional.pad(visual, (0, step))]
    finally:
        model.set_attn_implementation("sdpa")
    return total / len(response)


@pytest.mark.parametrize(
    ("head_weights", "clamp", "target"),
    [
        ("grad", True, "logit"),
        ("grad", False, "logit"),
        ("grad", True, "margin"),
        ("grad", True, "logprob"),
        ("mean", True, "logit"),
    ],
)
def test_equals_the_full_products(
    model: Any, ask: Any, family: Family, head_weights: Any, clamp: bool, target: Any
) -> None:
    """On images and a video in one prompt."""
    inputs = ask(MIXED)
    options = {"head_weights": head_weights, "clamp": clamp, "target": target}
    found = visual_relevance(model, inputs, RESPONSE, **options)
    expected = literal_relevance(model, inputs, RESPONSE, **options)
    assert found.shape == (family.visual("mixed"),) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    assert found.std() > 0


def test_padding_on_the_left_is_not_seen(model: Any, ask: Any) -> None:
    """As a processor leaves a prompt that it pads to a length."""
    inputs = ask(MIXED)
    padded = padded_on_the_left(inputs, 5)
    assert padded["input_ids"].shape[1] == inputs["input_ids"].shape[1] + 5
    found, expected = (visual_relevance(model, given, RESPONSE) for given in (padded, inputs))
    torch.testing.assert_close(found, expected)
    assert expected.std() > 0


@ONE_FAMILY
def test_each_option_matters(model: Any, ask: Any) -> None:
    inputs = ask(IMAGE)
    variants = [
        visual_relevance(model, inputs, RESPONSE),
        visual_relevance(model, inputs, RESPONSE, clamp=False),
        visual_relevance(model, inputs, RESPONSE, target="margin"),
        visual_relevance(model, inputs, RESPONSE, target="logprob"),
        visual_relevance(model, inputs, RESPONSE, head_weights="mean"),
        visual_relevance(model, inputs, RESPONSE.flip(0)),
    ]
    for index, one in enumerate(variants):
        assert all(not torch.allclose(one, other) for other in variants[:index])
    assert (variants[0] >= 0).all() and (variants[1] < 0).any()


@ONE_FAMILY
def test_works_where_gradients_are_off_and_restores_everything(model: Any, ask: Any) -> None:
    """`import vlmeval` turns gradients off for the process; generate() and callers may sit in inference mode."""
    inputs = ask(IMAGE)
    expected = visual_relevance(model, inputs, RESPONSE)
    first = next(model.parameters())
    first.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    kernels = (model.config._attn_implementation, model.config.get_text_config()._attn_implementation)
    torch.set_grad_enabled(False)
    try:
        found = visual_relevance(model, inputs, RESPONSE)
        with torch.inference_mode():
            inside = visual_relevance(model, inputs, RESPONSE)
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    first.requires_grad_(True)
    assert (model.config._attn_implementation, model.config.get_text_config()._attn_implementation) == kernels
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(inside, expected)


@ONE_FAMILY
def test_restores_after_an_exception(model: Any, ask: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("boom")

    handle = model.model.language_model.layers[3].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="boom"):
            visual_relevance(model, ask(IMAGE), RESPONSE)
    finally:
        handle.remove()
    assert model.model.language_model.config._attn_implementation == "sdpa"
    assert all(parameter.requires_grad for parameter in model.parameters())


@ONE_FAMILY
def test_leaves_generate_as_it_was(model: Any, ask: Any) -> None:
    inputs, other = ask(VIDEO), ask(IMAGE)
    before = model.generate(**inputs, max_new_tokens=4)
    visual_relevance(model, other, RESPONSE)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4), before)


@ONE_FAMILY
@pytest.mark.parametrize(
    ("response", "options", "message"),
    [
        ([], {}, "response_ids"),
        ([[1, 2]], {}, "response_ids"),
        ([1], {"target": "loss"}, "target='loss'"),
        ([1], {"head_weights": "max"}, "head_weights='max'"),
    ],
)
def test_refuses(model: Any, ask: Any, response: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        visual_relevance(model, ask(IMAGE), torch.tensor(response, dtype=torch.long), **options)


@ONE_FAMILY
def test_refuses_two_prompts(model: Any, ask: Any) -> None:
    with pytest.raises(UserError, match="one prompt"):
        visual_relevance(model, ask(IMAGE, VIDEO), RESPONSE)


# The method: it explains the model's own greedy response.


def test_method_explains_the_models_own_response(model: Any, ask: Any) -> None:
    inputs = ask(VIDEO)
    response = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    (prompt,) = encode(model, inputs)
    generate(model, prompt, method("relevance"), 0.5, max_new_tokens=4, do_sample=True)
    assert torch.equal(prompt.cache["response_ids"], response)
    expected = visual_relevance(model, inputs, response)
    torch.testing.assert_close(prompt.cache[method("relevance")], expected, atol=1e-5, rtol=1e-4)


@ONE_FAMILY
def test_the_end_of_sequence_is_not_explained(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(IMAGE))
    end = model.generation_config.eos_token_id[0]
    prompt.cache["response_ids"] = torch.tensor([65, 200, end])
    scores = method("relevance").score(model, prompt)
    torch.testing.assert_close(scores, visual_relevance(model, ask(IMAGE), torch.tensor([65, 200])))
    prompt.cache["response_ids"] = torch.tensor([end])
    scores = method("relevance").score(model, prompt)
    torch.testing.assert_close(scores, visual_relevance(model, ask(IMAGE), torch.tensor([end])))


def test_length_limit_is_that_of_the_call_in_progress(model: Any, ask: Any) -> None:
    """compress() and the sweep must explain the same response, or they would keep different tokens."""
    inputs = ask(VIDEO)
    for limit in (1, 6):
        (prompt,) = encode(model, inputs)
        _, record = generate(model, prompt, method("relevance"), 0.3, max_new_tokens=limit)
        assert len(prompt.cache["response_ids"]) == limit
        with compress(model, "relevance", keep=0.3) as compression:
            model.generate(**inputs, max_new_tokens=limit)
        assert compression.last[0].kept.tolist() == record.kept.tolist()


@ONE_FAMILY
def test_cost_of_a_response_answered_before_is_recorded(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(VIDEO))
    generate(model, prompt, method("vanilla"), 1.0, max_new_tokens=4)
    prompt.cache["response_seconds"] = 100.0
    _, record = generate(model, prompt, method("relevance"), 0.3, max_new_tokens=4)
    assert record.scoring_seconds > 100.0
    _, record = generate(model, prompt, method("first_layer_attention"), 0.3, max_new_tokens=4)
    assert record.scoring_seconds < 100.0


@ONE_FAMILY
def test_half_precision_gives_finite_relevance(folder: Any, ask: Any) -> None:
    half = load(folder, dtype=torch.bfloat16)
    found = visual_relevance(half, ask(IMAGE), RESPONSE)
    assert found.dtype == torch.float32 and torch.isfinite(found).all() and (found > 0).any()
