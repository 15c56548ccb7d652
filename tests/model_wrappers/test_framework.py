"""Beyond the rules: kernels and number formats, several cuts, what a method and a caller may not do."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from model_wrappers import UserError, budget, compress, encode, generate
from model_wrappers.methods.base import LayerPruner, Merger, Scorer
from tests.model_wrappers.conftest import IMAGE, MIXED, PROMPTS, STEPS, TEXT, VIDEO, answer, load, new_tokens
from tests.model_wrappers.reference import masked_logits
from tests.model_wrappers.table import LAYERS, METHODS, ONE_FAMILY, ROWS, Family, Row, only

# Kernels and number formats.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(folder: Path, ask: Any, family: Family, dtype: torch.dtype) -> None:
    half = load(folder, dtype=dtype)
    for row in ROWS:
        inputs = ask(MIXED, PROMPTS[row.single])
        with compress(half, row.name, keep=0.25, **row.fields) as compression:
            output = answer(half, inputs, max_new_tokens=2, min_new_tokens=2)
        kept = [row.counts(0.25, family.visual(media))[-1] for media in ("mixed", row.single)]
        assert [len(record.kept) for record in compression.last] == kept or not row.exact, row
        assert all(torch.isfinite(logits).all() for logits in output.logits), row
    assert all(parameter.dtype == dtype for parameter in half.parameters())


@METHODS
def test_eager_and_sdpa_agree(model: Any, ask: Any, row: Row) -> None:
    inputs = ask(MIXED)
    with compress(model, row.name, keep=0.25, **row.fields) as compression:
        sdpa = answer(model, inputs)
        kept = compression.last[0].kept.tolist()
        model.set_attn_implementation("eager")
        try:
            eager = answer(model, inputs)
        finally:
            model.set_attn_implementation("sdpa")
    assert compression.last[0].kept.tolist() == kept
    torch.testing.assert_close(torch.cat(eager.logits), torch.cat(sdpa.logits), atol=5e-5, rtol=1e-4)


# Several cuts, one after another.


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cuts_at_three_layers(model: Any, ask: Any, family: Family, attention: str) -> None:
    """Middle tokens last longest; neighbouring cuts (a layer that is cut and looked at) and a gap between cuts."""

    class Narrowing(LayerPruner):
        def plan(self, n_layers: int, keep: float) -> dict[int, float]:
            return {1: 0.5, 2: 0.3, 4: keep}

        def score(self, layer: Any, hidden: Any, position_embeddings: Any, visual: Any) -> torch.Tensor:
            places = torch.arange(int(visual.sum()))
            return -(places - len(places) / 2).abs().float()

    batch = (MIXED, TEXT, IMAGE)
    model.set_attn_implementation(attention)
    try:
        inputs = ask(*batch)
        with compress(model, Narrowing(), keep=0.1) as compression:
            output = answer(model, inputs)
    finally:
        model.set_attn_implementation("sdpa")
    if family.name == "qwen2_vl":
        assert [record.kv_visual for record in compression.last] == [[30, 15, 9, 9, 3], [0] * LAYERS, [20, 10, 6, 6, 2]]
    for index, parts in enumerate(batch):
        (prompt,) = encode(model, ask(parts))
        kept, cuts = torch.arange(prompt.n_visual), {}
        for layer, share in ((1, 0.5), (2, 0.3), (4, 0.1)):
            order = sorted(range(len(kept)), key=lambda place: (abs(place - len(kept) / 2), place))
            kept = kept[sorted(order[: budget(share, prompt.n_visual)])]
            cuts[layer] = kept
        expected = masked_logits(model, prompt, cuts, new_tokens(output, inputs)[index])
        torch.testing.assert_close(torch.stack(output.logits)[:, index], expected, atol=5e-5, rtol=1e-4)
        assert compression.last[index].kept.tolist() == kept.tolist()


class Narrowing(LayerPruner):
    """The last visual tokens stay longest."""

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        return {1: 0.5, 2: 0.3, 4: keep}

    def score(self, layer: Any, hidden: Any, position_embeddings: Any, visual: Any) -> torch.Tensor:
        return torch.arange(int(visual.sum())).float()


class Trimming(Narrowing):
    """And each cut is one of the caches before it."""

    trims = True


class Halving(Merger, Narrowing):
    """First every second token becomes the sum of itself and the next."""

    def merge(self, model: Any, prompt: Any, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        features = prompt.inputs_embeds[prompt.visual]
        return features[:-1:2] + features[1::2], torch.arange(len(features) - 1)[::2]


class HalvingAndTrimming(Halving, Trimming):
    """All of it."""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", [Trimming, Halving, HalvingAndTrimming])
@pytest.mark.parametrize("positions", ["own", "renumber"])
def test_merging_first_and_cutting_caches(
    model: Any, ask: Any, kind: type[Narrowing], positions: Any, attention: str
) -> None:
    """In a padded batch, and on the sweep's path: caches of one length, which the answer's rows see cut in all layers;
    without that, a merger that prunes between layers is both, one after the other."""
    batch, made = (MIXED, TEXT, VIDEO), kind(positions=positions)
    model.set_attn_implementation(attention)
    try:
        inputs = ask(*batch)
        with compress(model, made, keep=0.1) as compression:
            output = answer(model, inputs)
        assert torch.equal(output.sequences[1], answer(model, inputs).sequences[1])
        for index, parts in enumerate(batch):
            (prompt,) = encode(model, ask(parts))
            tokens, record = generate(model, prompt, made, 0.1, max_new_tokens=STEPS, min_new_tokens=STEPS)
            assert torch.equal(tokens, new_tokens(output, inputs)[index])
            (one, other) = (compression.last[index], record)
            assert (one.kept.tolist(), one.kv_visual, one.worked) == (
                other.kept.tolist(),
                other.kv_visual,
                other.worked,
            )
    finally:
        model.set_attn_implementation("sdpa")
    for index, parts in enumerate(batch):
        (prompt,) = encode(model, ask(parts))
        if not prompt.n_visual:
            continue
        kept, cuts = torch.arange(prompt.n_visual), {}
        if isinstance(made, Merger):
            merged, kept = made.merge(model, prompt, 1)
            embeds = prompt.inputs_embeds.clone()
            embeds[prompt.visual_rows[kept]] = merged
            prompt, cuts = dataclasses.replace(prompt, inputs_embeds=embeds), {0: kept}
        for layer, share in ((1, 0.5), (2, 0.3), (4, 0.1)):
            kept = kept[-budget(share, prompt.n_visual) :]
            cuts[layer] = kept
        counts = [cuts[max(cut for cut in cuts if cut <= layer)] for layer in range(1, LAYERS)]
        expected = [len(cuts.get(0, prompt.visual_rows)), *map(len, counts)]
        found = compression.last[index]
        assert found.by_layer == expected
        assert found.kv_visual == (expected[-1:] * LAYERS if made.trims else expected)
        numbers = positions if 0 in cuts or not made.trims else "own"
        answered = new_tokens(output, inputs)[index]
        truth = masked_logits(model, prompt, cuts, answered, numbers, made.trims)
        torch.testing.assert_close(torch.stack(output.logits)[:, index], truth, atol=5e-5, rtol=1e-4)


@ONE_FAMILY
def test_a_cache_that_cannot_be_cut_is_refused(model: Any, ask: Any) -> None:
    cache = DynamicCache(config=model.config.get_text_config())
    cache.layers[0] = DynamicSlidingWindowLayer(sliding_window=4096)
    with pytest.raises(UserError, match="DynamicSlidingWindowLayer"), compress(model, Trimming(), keep=0.1):
        answer(model, ask(IMAGE), past_key_values=cache)


# What the framework asks of a method.


@ONE_FAMILY
@pytest.mark.parametrize("wrong", [torch.tensor([1.0, math.nan] + [0.0] * 18), torch.zeros(3)])
def test_scores_that_are_no_scores(model: Any, ask: Any, wrong: torch.Tensor) -> None:
    class Wrong(Scorer):
        def score(self, model: Any, prompt: Any) -> torch.Tensor:
            return wrong

    with pytest.raises(ValueError, match="finite|was to give 20"), compress(model, Wrong(), keep=0.5):
        answer(model, ask(IMAGE))


@ONE_FAMILY
def test_ties_go_to_the_lower_index(model: Any, ask: Any) -> None:
    class Flat(Scorer):
        def score(self, model: Any, prompt: Any) -> torch.Tensor:
            return torch.tensor([0.0, 1.0] * 10)

    with compress(model, Flat(), keep=0.6) as compression:
        answer(model, ask(IMAGE))
    assert compression.last[0].kept.tolist() == [0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19]


@ONE_FAMILY
def test_fields_belong_to_a_name(model: Any) -> None:
    class Flat(Scorer):
        pass

    with pytest.raises(UserError, match="layer"):
        compress(model, Flat(), keep=0.5, layer=3)


def test_embeddings_without_ids_are_refused(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(IMAGE))
    with pytest.raises(UserError, match="input_ids"), compress(model, "random", keep=0.5):
        model.generate(inputs_embeds=prompt.inputs_embeds[None], max_new_tokens=1)
    with compress(model, "random", keep=1.0) as compression:
        model.generate(inputs_embeds=prompt.inputs_embeds[None], max_new_tokens=1)
    assert compression.last == []


@only("qwen2_vl", "llava_onevision")
def test_a_static_cache_is_refused(model: Any, ask: Any) -> None:
    """Its masks are made for the uncut length. (For VILA generate() takes a dynamic one, whatever was asked.)"""
    inputs = ask(IMAGE)
    with pytest.raises(UserError, match="dynamic KV cache"), compress(model, "random", keep=0.5):
        answer(model, inputs, cache_implementation="static")


def test_more_pictures_after_a_filled_cache_are_refused(model: Any, ask: Any) -> None:
    inputs = ask(IMAGE)
    with pytest.raises(UserError, match="filled KV cache"), compress(model, "random", keep=0.5), torch.no_grad():
        output = model(**ask(TEXT), use_cache=True)
        model(
            **inputs,
            past_key_values=output.past_key_values,
            position_ids=torch.zeros(
                *([3] if hasattr(model.model, "get_rope_index") else []), *inputs["input_ids"].shape
            ),
        )


def test_a_model_without_vision_is_refused() -> None:
    with pytest.raises(UserError, match="Linear"):
        compress(torch.nn.Linear(2, 2), "random", keep=0.5)
