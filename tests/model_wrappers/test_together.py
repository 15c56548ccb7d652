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
from model_wrappers.positions import shorten
from model_wrappers.registry import method
from model_wrappers.relevance.response import run_generate
from model_wrappers.selection import choose
from model_wrappers.together import STEP, batches, generate_together
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
OF_VIDEOS = [(method("prunevid"), 0.5), (method("prunevid"), 0.2), (method("prunevid", alpha=1.0), 0.2)]


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


def _logits(model: Any, prompt: Any, cuts: list[Any], settings: dict[str, Any]) -> Tensor:
    """[T, B, vocabulary] of the steps of run_generate."""
    seen: list[Tensor] = []

    def keep(scores_of: Any, scores: Tensor) -> Tensor:
        seen.append(scores.clone())
        forced = torch.full_like(scores, -1.0)
        forced[:, len(seen)] = 1.0  # every row goes on with the same token
        return forced

    run_generate(model, prompt, cuts, logits_processor=[keep], **settings)
    return torch.stack(seen)


@pytest.mark.parametrize("media", PROMPTS)
def test_each_row_is_the_answer_alone(model: Any, ask: Any, media: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and videos, several of them or none; all cuts in one padded batch."""
    inputs = ask(PROMPTS[media])
    alone, together = encode(model, inputs)[0], encode(model, inputs)[0]
    requests = REQUESTS + (OF_VIDEOS if media == "video" else [])
    expected = [generate(model, alone, *request, **SETTINGS) for request in requests]
    sizes = _batches(monkeypatch, model)
    monkeypatch.setattr("model_wrappers.together.STEP", 1000)  # as if padding cost next to nothing
    found = {place: rest for place, *rest in generate_together(model, together, requests, **SETTINGS)}
    assert sorted(found) == list(range(len(requests)))
    for place, (tokens, record) in enumerate(expected):
        ours, our_record, seconds = found[place]
        assert ours.tolist() == tokens.tolist() and seconds > 0
        assert our_record.kept.tolist() == record.kept.tolist()
        assert (our_record.keep, our_record.kv_visual) == (record.keep, record.kv_visual)
        assert our_record.by_layer == record.by_layer
    assert max(sizes) == (15 if alone.n_visual else 1), "fifteen cuts at the input, of two lengths"


def test_a_padded_row_has_the_logits_of_the_row_alone(model: Any, ask: Any) -> None:
    prompt = encode(model, ask(PROMPTS["mixed"]))[0]
    cuts = [
        shorten(prompt, choose(model, prompt, method("random"), keep).kept, positions)
        for keep in (0.9, 0.5, 0.1)
        for positions in ("own", "renumber")
    ]
    logits = []
    with torch.no_grad():
        for some in (cuts, *([cut] for cut in cuts)):
            settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
            logits.append(_logits(model, prompt, some, settings))
    for row, alone in enumerate(logits[1:]):
        torch.testing.assert_close(logits[0][:, row], alone[:, 0], atol=2e-5, rtol=1e-4)


def test_rows_are_padded_where_that_is_worth_it() -> None:
    assert batches([], 2) == []
    assert batches([10, 10, 10], 1) == [[0, 1, 2]]
    assert batches([100, 100 - STEP], 1) == [[0, 1]] and batches([100, 99 - STEP], 1) == [[0], [1]]
    # Two rows to pad need twice the steps, and a batch that was not joined is there for the next to join.
    two = [200, 199 - STEP, 199 - STEP, 190 - STEP]
    assert batches(two, 2) == [[0], [1, 2, 3]] and batches(two, 3) == [[0, 1, 2, 3]]


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


def test_a_batch_that_fails_is_answered_row_by_row(model: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one too large for the memory; what fails alone too has its own reason."""
    prompt = encode(model, ask(PROMPTS["image"]))[0]
    requests = [(method("random", seed=seed), 0.5) for seed in range(3)]
    cls, real = type(model), type(model).generate
    calls: list[int] = []

    def generate_some(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["inputs_embeds"].shape[0])
        if calls[-1] > 1 or len(calls) == 3:
            raise torch.OutOfMemoryError(f"no room for {calls[-1]}")
        return real(self, *args, **kwargs)

    expected = [generate(model, prompt, *request, **SETTINGS)[0].tolist() for request in requests]
    monkeypatch.setattr(cls, "generate", generate_some)
    found = [outcome[1] for outcome in sorted(generate_together(model, prompt, requests, **SETTINGS))]
    assert calls == [3, 1, 1, 1]
    assert isinstance(found[0], Tensor) and isinstance(found[2], Tensor)
    assert [found[0].tolist(), found[2].tolist()] == [expected[0], expected[2]]
    assert isinstance(found[1], torch.OutOfMemoryError) and str(found[1]) == "no room for 1"


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
        list(generate_together(model, prompt, requests, "always", **SETTINGS))
    finally:
        model.float()
    prompt = encode(model, ask(PROMPTS["image"]))[0]
    list(generate_together(model, prompt, requests, "never", **SETTINGS))
    assert sizes == [1, 1, 1, 1, 2, 1, 1]
