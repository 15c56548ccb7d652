"""PyramidDrop, SparseVLM, DART and DivPrune against a second, literal writing of each, on random prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness import flops
from harness.flops import paper
from model_wrappers import UserError, budget, compress, encode
from model_wrappers.registry import method
from tests.model_wrappers import literal
from tests.model_wrappers.conftest import MIXED, VIDEO, answer, clip, new_tokens, picture
from tests.model_wrappers.table import LAYERS, ONE_FAMILY

PROMPTS = (
    MIXED,
    VIDEO,
    [picture(6, 7, 11), "How many?"],
    ["See", picture(5, 4, 12), "and", clip(4, 3, 3, 13), "Which is brighter, the first or the second?"],
)
INSIDE = ("pyramiddrop", "sparsevlm", "dart")


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_equals_the_published_algorithm(model: Any, ask: Any, name: str, number: int) -> None:
    """Kept tokens, the embeddings behind each cut (SparseVLM's means among them), counts and answers."""
    inputs = ask(PROMPTS[number])
    (prompt,) = encode(model, inputs)
    for keep in (0.5, 0.12):
        seen: dict[Any, torch.Tensor] = {}

        def note(layer: Any, args: Any, seen: dict[Any, torch.Tensor] = seen) -> None:
            seen.setdefault(layer, args[0][0].clone())  # at prefill

        layers = model.model.language_model.layers
        with compress(model, name, keep=keep) as compression:
            handles = [layer.register_forward_pre_hook(note) for layer in layers]
            output = answer(model, inputs)
            for handle in handles:
                handle.remove()
        (record,) = compression.last
        expected = literal.run(model, prompt, name, keep, new_tokens(output, inputs)[0], compression.method.positions)
        assert record.kept.tolist() == sorted(expected.kept) and len(record.kept) < prompt.n_visual
        assert record.kv_visual == expected.counts == compression.method.counts(LAYERS, keep, prompt.n_visual)
        for index, state in expected.states.items():
            torch.testing.assert_close(seen[layers[index]], state, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(torch.cat(output.logits), expected.logits, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_divprune_equals_the_published_algorithm(model: Any, ask: Any, number: int) -> None:
    (prompt,) = encode(model, ask(PROMPTS[number]))
    for keep in (0.5, 0.12):
        count = budget(keep, prompt.n_visual)
        expected = literal.divprune(prompt.inputs_embeds[prompt.visual], count)
        assert len(set(expected)) == count, "the published code may take equal tokens (newlines) twice; none do here"
        assert method("divprune").select(model, prompt, count).tolist() == expected


# Counts and plans by hand.


def test_pyramiddrop_halves_three_times() -> None:
    """The official setting: cuts after layers 8, 16 and 24 of 32, to 1/2, 1/4 and 1/8 of 576 tokens; and 28 layers."""
    found = method("pyramiddrop")
    assert found.counts(32, 0.125, 576) == [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8
    assert list(found.plan(28, 0.125)) == [7, 14, 21]
    assert list(found.plan(27, 0.125)) == [7, 14, 20]
    assert list(method("pyramiddrop", stages=2).plan(28, 0.3).items()) == [(14, 0.3)]


@pytest.mark.parametrize(("mean", "tflops"), [(0.3, 3.8), (0.254, 3.2)])
def test_table_7_does_not_cut_pyramiddrop_at_the_official_layers(mean: float, tflops: float) -> None:
    """LLaVA-OneVision, n = 1728: at the table's mean retention a first cut after a quarter of the layers costs more."""
    decoder = flops.shape_of("llava-hf/llava-onevision-qwen2-7b-ov-hf").decoder
    low, high = 1e-9, 1.0
    for _ in range(60):
        keep = (low + high) / 2
        shares = [share for share in (1.0, *method("pyramiddrop").plan(28, keep).values()) for _ in range(7)]
        low, high = (keep, high) if sum(shares) / 28 < mean else (low, keep)
    assert paper.language_model([1728 * share for share in shares], decoder) / 1e12 > tflops + 0.05


def test_sparsevlm_has_the_official_counts() -> None:
    """score.py: 300, 200, 110 tokens of 576 for "192"; after layers 2, 6 and 15 of 32. Means: 0.1 x 0.3 of the rest."""
    found = method("sparsevlm")
    for last, first, second in ((110, 300, 200), (36, 303, 110), (17, 66, 30)):
        plan = found.plan(32, last / 576)
        assert list(plan) == [3, 7, 16]
        assert [round(share * 576, 9) for share in plan.values()] == [first, second, last]
    # 276 dropped: 83 come back as 9; of 309 109 dropped: 33 as 4; of 204 94 dropped: 29 as 3.
    assert found.counts(32, 110 / 576, 576) == [576] * 3 + [309] * 4 + [204] * 9 + [113] * 16
    assert list(found.plan(28, 0.2)) == [3, 6, 14]
    shares = [tuple(found.plan(32, keep / 100).values()) for keep in range(1, 100)]
    assert all(1 > one >= two >= three > 0 for one, two, three in shares)


def test_dart_keeps_four_more_than_a_multiple_of_eight() -> None:
    found = method("dart")
    for visual, keep, left in ((1296, 0.25, 8 * 40 + 4), (576, 0.222, 8 * 15 + 4), (20, 0.1, 4), (3, 0.5, 3)):
        assert found.counts(28, keep, visual) == [visual] * 2 + [left] * 26
    assert found.counts(28, 1.0, 576) == [576] * 28


@ONE_FAMILY
@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("pyramiddrop", {"stages": 1}, "stages=1"),
        ("pyramiddrop", {"stages": LAYERS + 1}, f"stages={LAYERS + 1}"),
        ("dart", {"pruned_layer": 0}, "pruned_layer=0"),
        ("dart", {"pruned_layer": LAYERS}, f"pruned_layer={LAYERS}"),
        ("dart", {"pivot_image_token": 0}, "pivot_image_token=0"),
        ("dart", {"pivot_text_token": -1}, "pivot_text_token=-1"),
    ],
)
def test_fields_out_of_range(model: Any, name: str, fields: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compress(model, name, keep=0.5, **fields)
