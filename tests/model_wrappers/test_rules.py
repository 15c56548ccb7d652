"""The eight rules of the seam, each over every method and family, on the real model classes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from model_wrappers import Compression, UserError, budget, compress, encode
from model_wrappers.registry import method
from model_wrappers.selection import choose
from tests.model_wrappers import literal
from tests.model_wrappers.conftest import (
    IMAGE,
    MIXED,
    PROMPTS,
    STEPS,
    TEXT,
    VIDEO,
    answer,
    load,
    new_tokens,
    padded_on_the_right,
    visual_of,
)
from tests.model_wrappers.reference import counted_anew, masked_logits
from tests.model_wrappers.table import (
    A_CUTTER_OF_EACH_KIND,
    A_CUTTER_OF_EACH_KIND_OF_EACH_MEDIUM,
    EVERY_METHOD,
    LAYERS,
    METHODS,
    ONE_FAMILY,
    Family,
    Row,
    only,
)

# Rule 1: one rounding rule, requested and realised counts recorded.


def test_budget_by_hand() -> None:
    by_hand = {
        (0.5, 3): 2,
        (0.25, 10): 3,
        (0.1, 4): 1,
        (0.1, 24): 2,
        (0.1, 25): 3,
        (0.001, 9): 1,
        (1.0, 7): 7,
        (0.5, 0): 0,
    }
    assert {case: budget(*case) for case in by_hand} == by_hand


@ONE_FAMILY
@pytest.mark.parametrize("keep", [0, -0.1, 1.01, 2, math.nan, "half", None, True])
def test_keep_outside_is_refused(model: Any, keep: Any) -> None:
    with pytest.raises(UserError, match="keep="):
        compress(model, "random", keep=keep)


@ONE_FAMILY
def test_vanilla_with_less_than_everything_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match="vanilla"):
        compress(model, "vanilla", keep=0.5)


@METHODS
def test_counts(model: Any, ask: Any, family: Family, row: Row) -> None:
    inputs, visual = ask(MIXED), family.visual("mixed")
    for keep in (0.9, 0.25, 0.001):
        with compress(model, row.name, keep=keep, **row.fields) as compression:
            model.generate(**inputs, max_new_tokens=1)
        (record,) = compression.last
        assert (record.visual, record.keep) == (visual, keep)
        assert record.kept.dtype == torch.long and record.kept.device.type == "cpu"
        assert record.kept.tolist() == sorted(set(record.kept.tolist()))
        expected = row.counts(keep, visual) if row.exact else [len(record.kept)] * LAYERS
        assert len(record.kept) == expected[-1]
        assert 0 <= record.kept.min() and record.kept.max() < visual
        assert record.scoring_seconds >= 0
        assert record.kv_visual == expected
        if row.trims:
            (first, last), layers = sorted(set(record.by_layer), reverse=True), [row.trims, LAYERS - row.trims]
            assert record.by_layer == [first] * layers[0] + [last] * layers[1] and last == len(record.kept)
        else:
            assert record.by_layer == record.kv_visual and record.worked is None


# Rule 2: keep = 1 is the untouched model.


@EVERY_METHOD
def test_keep_one_is_untouched(model: Any, ask: Any, family: Family, row: Row) -> None:
    inputs = ask(MIXED, IMAGE, TEXT)
    plain = answer(model, inputs)
    with compress(model, row.name, keep=1.0, **row.fields) as compression:
        same = answer(model, inputs)
    assert torch.equal(plain.sequences, same.sequences)
    assert all(torch.equal(one, other) for one, other in zip(plain.logits, same.logits, strict=True))
    visual = [family.visual("mixed"), family.visual("image"), 0]
    assert [record.visual for record in compression.last] == visual
    assert [len(record.kept) for record in compression.last] == visual


# Rules 3 and 4: text stays, order stays; positions are a token's own and decoding goes on after the uncut length,
# unless the method counts anew.


@METHODS
def test_equals_the_masked_full_length_model(model: Any, ask: Any, row: Row) -> None:
    check_against_the_masked_model(model, ask(MIXED), row)


@A_CUTTER_OF_EACH_KIND_OF_EACH_MEDIUM
def test_equals_it_with_one_picture_or_video(model: Any, ask: Any, row: Row, media: str) -> None:
    check_against_the_masked_model(model, ask(PROMPTS[media]), row)


def check_against_the_masked_model(model: Any, inputs: Any, row: Row) -> None:
    with compress(model, row.name, keep=0.3, **row.fields) as compression:
        output = answer(model, inputs)
    expected = expected_logits(model, inputs, row, 0.3, compression, new_tokens(output, inputs)[0])
    torch.testing.assert_close(torch.cat(output.logits), expected, atol=2e-5, rtol=1e-4)


def expected_logits(
    model: Any, inputs: Any, row: Row, keep: float, compression: Compression, tokens: torch.Tensor
) -> torch.Tensor:
    """Of the full-length model; where tokens are merged, with what the method makes of those that are left.

    Of a method that is written a second time, and may cut several times and merge between layers, those of that.
    """
    (prompt,) = encode(model, inputs)
    kept = compression.last[0].kept
    if row.name in literal.CUTS:
        return literal.run(model, prompt, row.name, keep, tokens, row.positions).logits
    cuts = {row.first_cut: kept}
    if row.merges:
        choice = choose(model, prompt, method(row.name, **row.fields), keep)
        assert choice.merged is not None
        if row.trims:
            assert set(kept.tolist()) < set(choice.kept.tolist())
            cuts = {0: choice.kept, row.trims: kept}
        else:
            assert torch.equal(choice.kept, kept)
        embeds = prompt.inputs_embeds.clone()
        embeds[prompt.visual_rows[choice.kept]] = choice.merged
        prompt = dataclasses.replace(prompt, inputs_embeds=embeds)
    return masked_logits(model, prompt, cuts, tokens, row.positions, trims=row.trims > 0)


@METHODS
def test_positions_and_rows_the_layers_see(model: Any, ask: Any, row: Row) -> None:
    """The last layer's rotary tables say which positions its rows have, at prefill and at each step."""
    inputs = ask(MIXED)
    (prompt,) = encode(model, inputs)
    seen: list[torch.Tensor] = []
    decoder = model.model.language_model
    with compress(model, row.name, keep=0.3, **row.fields) as compression:
        handle = decoder.layers[-1].register_forward_pre_hook(
            lambda layer, args, kwargs: seen.append(kwargs["position_embeddings"][0][0].clone()), with_kwargs=True
        )
        output = answer(model, inputs)
        handle.remove()
    kept = compression.last[0].kept
    if row.name in literal.CUTS:
        tokens = new_tokens(output, inputs)[0]
        positions = literal.run(model, prompt, row.name, 0.3, tokens, row.positions).positions
    else:
        numbers, following = prompt.position_ids, prompt.next_position
        if row.positions == "renumber":
            numbered = choose(model, prompt, method(row.name, **row.fields), 0.3).kept if row.trims else kept
            numbers, following = counted_anew(prompt, numbered.tolist())
        stays = prompt.rows_kept(kept)
        assert stays[-1] == len(prompt.input_ids) - 1
        after = following + torch.arange(STEPS - 1).expand(len(numbers), -1)
        positions = torch.cat((numbers[:, stays], after), dim=1)
    positions = positions[:, None] if len(positions) == 3 else positions
    expected = decoder.rotary_emb(prompt.inputs_embeds[None], positions)[0][0]
    torch.testing.assert_close(torch.cat(seen[-STEPS:]), expected)  # what is before: relevance asking for a response


@METHODS
def test_a_visual_token_at_the_very_end_is_kept(model: Any, ask: Any, family: Family, row: Row) -> None:
    """The last row predicts the answer, whatever it is."""
    inputs = ask(PROMPTS[row.single])
    stop = int(visual_of(model, inputs).nonzero()[-1]) + 1
    by_token = [name for name in ("input_ids", "attention_mask", "mm_token_type_ids") if name in inputs]
    with compress(model, row.name, keep=0.2, **row.fields) as compression:
        model.generate(**{**inputs, **{name: inputs[name][:, :stop] for name in by_token}}, max_new_tokens=1)
    visual = family.visual(row.single)
    kept, count = compression.last[0].kept, row.counts(0.2, visual)[-1]
    assert kept[-1] == visual - 1 and count > 1
    assert len(kept) == count or not row.exact


# Rule 5: each layer's KV length is the plan's after every step; no layer runs twice; the kernel is not switched.


class CacheWatch(LogitsProcessor):
    """Notes each layer's KV length at every step of generate()."""

    def __init__(self, cache: DynamicCache) -> None:
        self.cache, self.lengths = cache, []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.cache.get_seq_length():  # else it is relevance that generates, with the settings in use
            self.lengths.append([layer.keys.shape[-2] for layer in self.cache.layers])
        return scores


@EVERY_METHOD
def test_kv_lengths(model: Any, ask: Any, row: Row) -> None:
    keep = 1.0 if row.name == "vanilla" else 0.25
    inputs = ask(VIDEO)
    cache = DynamicCache(config=model.config.get_text_config())
    watch = CacheWatch(cache)
    runs = [0] * LAYERS
    with compress(model, row.name, keep=keep, **row.fields) as compression:
        handles = []
        for index, layer in enumerate(model.model.language_model.layers):

            def count(module: Any, args: Any, kwargs: Any, at: int = index) -> None:
                runs[at] += kwargs["past_key_values"] is cache

            handles.append(layer.register_forward_pre_hook(count, with_kwargs=True))
        answer(model, inputs, past_key_values=cache, logits_processor=LogitsProcessorList([watch]))
        for handle in handles:
            handle.remove()
    (record,) = compression.last
    text = inputs["input_ids"].shape[1] - record.visual
    assert len(watch.lengths) == STEPS
    for step, lengths in enumerate(watch.lengths):
        assert lengths == [text + visual + step for visual in record.kv_visual]
    assert runs == [STEPS] * LAYERS  # those of relevance, which asks the model beforehand, have another cache


@METHODS
def test_no_attention_map_is_asked_of_the_answering_model(model: Any, ask: Any, row: Row) -> None:
    kernels = set()
    with compress(model, row.name, keep=0.25, **row.fields) as compression:
        handle = model.lm_head.register_forward_pre_hook(
            lambda *_: kernels.add(
                (model.config._attn_implementation, model.model.language_model.config._attn_implementation)
            )
        )
        output = answer(model, ask(VIDEO), max_new_tokens=2, min_new_tokens=2)
        handle.remove()
    assert output.attentions is None
    assert model.config._attn_implementation == "sdpa" and ("sdpa", "sdpa") in kernels
    assert compression.last


# Rule 6: text-only prompts, batches with padding, greedy and sampled, stopping criteria.


@EVERY_METHOD
def test_text_only(model: Any, ask: Any, row: Row) -> None:
    keep = 1.0 if row.name == "vanilla" else 0.25
    inputs = ask(TEXT)
    plain = answer(model, inputs)
    with compress(model, row.name, keep=keep, **row.fields) as compression:
        same = answer(model, inputs)
    assert torch.equal(plain.sequences, same.sequences)
    (record,) = compression.last
    assert (record.visual, record.kept.tolist(), record.kv_visual) == (0, [], [0] * LAYERS)


@METHODS
def test_a_padded_batch_answers_like_its_prompts_alone(model: Any, ask: Any, row: Row) -> None:
    check_a_batch(model, ask, row, (MIXED, TEXT, PROMPTS[row.single]))


@A_CUTTER_OF_EACH_KIND
def test_a_padded_batch_on_the_eager_kernel(model: Any, ask: Any, row: Row) -> None:
    model.set_attn_implementation("eager")
    try:
        check_a_batch(model, ask, row, (VIDEO, TEXT, PROMPTS[row.single], MIXED))
    finally:
        model.set_attn_implementation("sdpa")


@A_CUTTER_OF_EACH_KIND
def test_a_batch_padded_on_the_right_too(model: Any, ask: Any, row: Row) -> None:
    """The uncut model answers nonsense after padding; what is cut is padded on the left."""
    check_a_batch(model, ask, row, (MIXED, PROMPTS[row.single], VIDEO), padded_on_the_right)


def check_a_batch(model: Any, ask: Any, row: Row, prompts: tuple[Any, ...], moved: Any = lambda inputs: inputs) -> None:
    with compress(model, row.name, keep=0.25, **row.fields) as compression:
        alone = []
        for parts in prompts:
            inputs = ask(parts)
            output = answer(model, inputs)
            alone.append((new_tokens(output, inputs)[0], torch.cat(output.logits), compression.last[0]))
        inputs = moved(ask(*prompts))
        output = answer(model, inputs)
        together = new_tokens(output, inputs)
    for index, (tokens, logits, record) in enumerate(alone):
        assert torch.equal(together[index], tokens)
        torch.testing.assert_close(torch.stack(output.logits)[:, index], logits, atol=5e-5, rtol=1e-4)
        assert compression.last[index].kept.tolist() == record.kept.tolist()
        assert compression.last[index].kv_visual == record.kv_visual
        assert compression.last[index].by_layer == record.by_layer


@A_CUTTER_OF_EACH_KIND
def test_sampling_draws_from_the_cut_model(model: Any, ask: Any, row: Row) -> None:
    inputs = ask(VIDEO)
    with compress(model, row.name, keep=0.25, **row.fields) as compression:
        torch.manual_seed(3)
        first = answer(model, inputs, do_sample=True, temperature=2.0)
        torch.manual_seed(3)
        second = answer(model, inputs, do_sample=True, temperature=2.0)
        torch.manual_seed(4)
        third = answer(model, inputs, do_sample=True, temperature=2.0)
    assert torch.equal(first.sequences, second.sequences)
    assert not torch.equal(first.sequences, third.sequences)
    expected = expected_logits(model, inputs, row, 0.25, compression, new_tokens(third, inputs)[0])
    torch.testing.assert_close(torch.cat(third.logits), expected, atol=2e-5, rtol=1e-4)


@A_CUTTER_OF_EACH_KIND
def test_stopping_criteria_see_the_uncut_prompt(model: Any, ask: Any, row: Row) -> None:
    inputs = ask(PROMPTS[row.single])
    length = inputs["input_ids"].shape[1]
    with compress(model, row.name, keep=0.25, **row.fields):
        output = model.generate(
            **inputs,
            max_new_tokens=9,
            min_new_tokens=9,
            stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(length + 2)]),
        )
    assert output.shape[1] == length + 2


@METHODS
def test_without_a_cache(model: Any, ask: Any, row: Row) -> None:
    """Every step is a prefill then: it is cut anew and still answers from the uncut positions."""
    inputs = ask(PROMPTS[row.single])
    with compress(model, row.name, keep=0.5, **row.fields) as compression:
        output = answer(model, inputs, use_cache=False, max_new_tokens=1, min_new_tokens=1)
    expected = expected_logits(model, inputs, row, 0.5, compression, new_tokens(output, inputs)[0])
    torch.testing.assert_close(torch.cat(output.logits), expected, atol=2e-5, rtol=1e-4)


@METHODS
def test_a_loop_of_ones_own(model: Any, ask: Any, row: Row) -> None:
    """forward() with a cache, without generate(): positions still go on as the method says."""
    inputs = ask(PROMPTS[row.single])
    with compress(model, row.name, keep=0.3, **row.fields) as compression, torch.no_grad():
        output = model(**inputs, use_cache=True)
        logits = [output.logits[:, -1]]
        for _ in range(STEPS - 1):
            token = logits[-1].argmax(dim=-1, keepdim=True)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
            logits.append(output.logits[:, -1])
    expected = expected_logits(model, inputs, row, 0.3, compression, torch.cat(logits).argmax(dim=-1))
    torch.testing.assert_close(torch.cat(logits), expected, atol=2e-5, rtol=1e-4)


# Rule 8: hooks are gone afterwards; models and methods do not meet.


def hooks_of(model: Any) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@EVERY_METHOD
def test_hooks_are_gone(model: Any, ask: Any, row: Row) -> None:
    keep = 1.0 if row.name == "vanilla" else 0.25
    inputs = ask(PROMPTS[row.single])
    plain = answer(model, inputs)
    before = hooks_of(model)
    with compress(model, row.name, keep=keep, **row.fields):
        assert hooks_of(model) > before
        model.generate(**inputs, max_new_tokens=1)
    assert hooks_of(model) == before and "generate" not in vars(model)
    assert not any("features" in name for name in vars(model.model))
    assert torch.equal(answer(model, inputs).sequences, plain.sequences)


@METHODS
def test_hooks_are_gone_after_an_exception(model: Any, ask: Any, family: Family, row: Row) -> None:
    inputs = ask(PROMPTS[row.single])
    before = hooks_of(model)

    class Boom(LogitsProcessor):
        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), compress(model, row.name, keep=0.25, **row.fields):
        answer(model, inputs, logits_processor=LogitsProcessorList([Boom()]))
    assert hooks_of(model) == before and "generate" not in vars(model)
    with compress(model, row.name, keep=0.25, **row.fields) as compression:
        model.generate(**inputs, max_new_tokens=1)
    count = row.counts(0.25, family.visual(row.single))[-1]
    assert len(compression.last[0].kept) == count or not row.exact


@ONE_FAMILY
def test_one_compression_a_model(model: Any, ask: Any) -> None:
    with compress(model, "random", keep=0.5):
        with pytest.raises(UserError, match="another"):
            with compress(model, "uniform", keep=0.5):
                pass
    with compress(model, "uniform", keep=0.5) as compression:
        answer(model, ask(IMAGE))
    assert len(compression.last[0].kept) == 10


@only("qwen2_vl", "llava_onevision")
def test_two_models_and_two_methods_do_not_meet(model: Any, folder: Path, ask: Any) -> None:
    other = load(folder)
    inputs = ask(IMAGE)
    with compress(model, "fastv", keep=0.5) as alone:
        expected = answer(model, inputs).sequences
    with compress(model, "fastv", keep=0.5) as one, compress(other, "uniform", keep=0.1) as two:
        here = answer(model, inputs).sequences
        there = answer(other, inputs).sequences
    assert torch.equal(here, expected) and not torch.equal(there, expected)
    assert one.last[0].kept.tolist() == alone.last[0].kept.tolist()
    assert two.last[0].kept.tolist() == {20: [5, 15], 37: [4, 13, 23, 32]}[two.last[0].visual]
