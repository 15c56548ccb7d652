"""Answers generated as rows of one batch are the answers that each request gets alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from model_wrappers import encode, generate
from model_wrappers.errors import UserError
from model_wrappers.methods.base import Scorer
from model_wrappers.registry import method
from model_wrappers.together import generate_together
from tests.model_wrappers.conftest import PROMPTS

SETTINGS = {"max_new_tokens": 5, "do_sample": False}
REQUESTS = [
    (method("vanilla"), 1.0),
    (method("fastv", layer=2), 0.5),
    *((method("random", seed=seed), keep) for seed in range(3) for keep in (0.5, 0.25)),
    *((method(name), keep) for name in ("uniform", "first_layer_attention", "relevance") for keep in (0.5, 0.25)),
    (method("random"), 1.0),
    (method("uniform", positions="renumber"), 0.5),
    (method("visionzip"), 0.25),
    (method("visionzip", positions="own"), 0.25),
]


@dataclass(frozen=True)
class Broken(Scorer):
    """Fails on every prompt."""

    name: ClassVar[str] = "broken"

    def score(self, model: Any, prompt: Any) -> Tensor:
        raise RuntimeError("no scores today")


def _batches(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[int]:
    """The batch size of every generate() call from here on."""
    sizes: list[int] = []
    cls, real = type(model), type(model).generate

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(kwargs["inputs_embeds"].shape[0])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(cls, "generate", generate)
    return sizes


@pytest.mark.parametrize("media", ["mixed", "text"])
def test_each_row_is_the_answer_alone(model: Any, ask: Any, media: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ask(PROMPTS[media])
    alone, together = encode(model, inputs)[0], encode(model, inputs)[0]
    expected = [generate(model, alone, *request, **SETTINGS) for request in REQUESTS]
    sizes = _batches(monkeypatch, model)
    found = {place: rest for place, *rest in generate_together(model, together, REQUESTS, **SETTINGS)}
    assert sorted(found) == list(range(len(REQUESTS)))
    for place, (tokens, record) in enumerate(expected):
        ours, our_record, seconds = found[place]
        assert ours.tolist() == tokens.tolist() and seconds > 0
        assert our_record.kept.tolist() == record.kept.tolist()
        assert (our_record.keep, our_record.kv_visual) == (record.keep, record.kv_visual)
    # Fifteen cuts at the input: seven that keep half in one batch, eight that keep a quarter in another.
    assert sorted(sizes)[-2:] == ([7, 8] if media == "mixed" else [1, 1])


def test_rows_end_where_they_would_alone(model: Any, ask: Any) -> None:
    """With most of the vocabulary as ends, rows of a batch end at different steps."""
    prompt = encode(model, ask(PROMPTS["mixed"]))[0]
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": list(range(0, 300, 3)), "pad_token_id": 1}
    lengths = set()
    for place, tokens, _, _ in generate_together(model, prompt, REQUESTS, **settings):
        assert isinstance(tokens, Tensor)
        method, keep = REQUESTS[place]
        expected, _ = generate(model, prompt, method, keep, **settings)
        assert tokens.tolist() == expected.tolist()
        lengths.add(len(tokens))
    assert len(lengths) > 1


def test_one_that_fails_keeps_none_from_answering(model: Any, ask: Any) -> None:
    prompt = encode(model, ask(PROMPTS["image"]))[0]
    requests = [(method("random"), 0.5), (Broken(), 0.5), (method("uniform"), 0.5)]
    found = {place: tokens for place, tokens, _, _ in generate_together(model, prompt, requests, **SETTINGS)}
    assert isinstance(found[1], RuntimeError) and all(isinstance(found[place], Tensor) for place in (0, 2))
    with pytest.raises(UserError, match="vanilla keeps every"):
        list(generate_together(model, prompt, [(method("vanilla"), 0.5)], **SETTINGS))


def test_half_precision_and_drawn_answers_are_generated_alone(
    model: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = encode(model, ask(PROMPTS["image"]))[0]
    requests = [(method("random"), 0.5), (method("uniform"), 0.5)]
    sizes = _batches(monkeypatch, model)
    torch.manual_seed(0)
    list(generate_together(model, prompt, requests, max_new_tokens=2, do_sample=True))
    model.bfloat16()
    try:
        prompt = encode(model, ask(PROMPTS["image"]))[0]
        list(generate_together(model, prompt, requests, **SETTINGS))
    finally:
        model.float()
    assert sizes == [1, 1, 1, 1]
