"""The sweep's path gives what compress() and generate() give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_wrappers import compress, encode, generate
from model_wrappers.registry import method
from tests.model_wrappers.conftest import PROMPTS
from tests.model_wrappers.table import EVERY_METHOD, ONE_FAMILY, Row, only

SETTINGS = {"max_new_tokens": 4, "do_sample": False}


@EVERY_METHOD
@pytest.mark.parametrize("media", ["mixed", "text"])
def test_same_answers_and_records(model: Any, ask: Any, row: Row, media: str) -> None:
    inputs = ask(PROMPTS[media])
    (prompt,) = encode(model, inputs)
    for keep in (1.0,) if row.name == "vanilla" else (0.5, 0.1) if media == "mixed" else (0.5,):
        with compress(model, row.name, keep=keep, **row.fields) as compression:
            output = model.generate(**inputs, **SETTINGS)
        tokens, record = generate(model, prompt, method(row.name, **row.fields), keep, **SETTINGS)
        assert tokens.tolist() == output[0, inputs["input_ids"].shape[1] :].tolist()
        (expected,) = compression.last
        assert (record.visual, record.keep, record.kv_visual) == (expected.visual, keep, expected.kv_visual)
        assert record.by_layer == expected.by_layer
        assert record.kept.tolist() == expected.kept.tolist()


# VILA's placeholder is none of its tokens: what looks every id of the prompt up among the logits cannot run on it.
@only("qwen2_vl", "llava_onevision")
@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 2},
        {"max_length": 99},
        {"max_length": 99, "min_length": 96},
        {"eos_token_id": 9},
        {"do_sample": True, "temperature": 1.5, "top_k": 40},
    ],
)
def test_same_under_other_settings(model: Any, ask: Any, settings: dict[str, Any]) -> None:
    """A repetition penalty looks at the prompt's ids, which a prompt of mere embeddings would not have."""
    inputs = ask(PROMPTS["image"])
    settings = settings if "max_length" in settings else {"max_new_tokens": 12, **settings}
    for keep in (1.0, 0.25):
        torch.manual_seed(0)
        with compress(model, "first_layer_attention", keep=keep):
            output = model.generate(**inputs, **settings)
        torch.manual_seed(0)
        (prompt,) = encode(model, inputs)
        tokens, _ = generate(model, prompt, method("first_layer_attention"), keep, **settings)
        assert tokens.tolist() == output[0, inputs["input_ids"].shape[1] :].tolist()


@ONE_FAMILY
def test_random_is_the_same_on_another_day(model: Any, ask: Any) -> None:
    inputs = ask(PROMPTS["video"])
    kept = []
    for seed, sample in ((0, "a"), (0, "a"), (1, "a"), (0, "b")):
        (prompt,) = encode(model, inputs, [sample])
        torch.rand(7)
        kept.append(generate(model, prompt, method("random", seed=seed), 0.25, **SETTINGS)[1].kept.tolist())
    assert kept[0] == kept[1] and kept[0] != kept[2] and kept[0] != kept[3]
    (prompt,) = encode(model, inputs, ["a"])
    assert set(generate(model, prompt, method("random"), 0.1, **SETTINGS)[1].kept.tolist()) < set(kept[0])


@ONE_FAMILY
def test_uniform_by_hand(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(PROMPTS["image"]))
    by_hand = {0.05: [10], 0.1: [5, 15], 0.2: [2, 7, 12, 17], 0.15: [3, 10, 16]}
    for keep, kept in by_hand.items():
        assert generate(model, prompt, method("uniform"), keep, **SETTINGS)[1].kept.tolist() == kept


@ONE_FAMILY
def test_the_vanilla_answer_is_remembered_if_greedy(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(PROMPTS["image"]))
    generate(model, prompt, method("vanilla"), 1.0, max_new_tokens=3, do_sample=True)
    assert "response_ids" not in prompt.cache
    tokens, _ = generate(model, prompt, method("vanilla"), 1.0, max_new_tokens=3)
    assert torch.equal(prompt.cache["response_ids"], tokens) and prompt.cache["response_seconds"] > 0


def test_leaves_no_hook_behind(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(PROMPTS["image"]))
    for name in ("fastv", "random"):
        generate(model, prompt, method(name), 0.25, **SETTINGS)
    assert not any(module._forward_pre_hooks for module in model.modules())
