"""First-layer attention and FastV's score against the eager model's own attention maps."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from model_wrappers import UserError, budget, compress
from model_wrappers.relevance import first_layer_attention
from tests.model_wrappers.conftest import IMAGE, PROMPTS, VIDEO, visual_of
from tests.model_wrappers.table import LAYERS, ONE_FAMILY
from tests.model_wrappers.test_pruners import PROMPTS as OF_PRUNERS


def eager_maps(model: Any, inputs: Any) -> tuple[torch.Tensor, ...]:
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("media", ["image", "mixed", "video"])
def test_first_layer_attention_equals_the_eager_model(model: Any, ask: Any, media: str) -> None:
    inputs = ask(PROMPTS[media])
    visual = visual_of(model, inputs)
    last = int(visual.nonzero()[-1])
    expected = eager_maps(model, inputs)[0][0].mean(dim=0)[last + 1 :, visual].mean(dim=0)
    found = first_layer_attention(model, inputs)
    assert found.shape == (int(visual.sum()),) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-3)


@ONE_FAMILY
def test_first_layer_attention_runs_no_layer(model: Any, ask: Any) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("a decoder layer ran")

    handles = [layer.register_forward_pre_hook(fail) for layer in model.model.language_model.layers]
    try:
        first_layer_attention(model, ask(VIDEO))
    finally:
        for handle in handles:
            handle.remove()


@ONE_FAMILY
def test_first_layer_attention_takes_one_prompt(model: Any, ask: Any) -> None:
    with pytest.raises(UserError, match="one prompt"):
        first_layer_attention(model, ask(IMAGE, VIDEO))


@pytest.mark.parametrize("number", range(len(OF_PRUNERS)))
def test_fastv_keeps_what_the_last_token_looks_at(model: Any, ask: Any, number: int) -> None:
    """In the paper's count layer 4 has three full layers, 0 to 2, and scores with the attention of layer 2."""
    inputs = ask(OF_PRUNERS[number])
    shown = visual_of(model, inputs)
    maps, visual = eager_maps(model, inputs), int(shown.sum())
    for layer, keep in product(range(2, LAYERS + 1), (0.5, 0.12)):
        kept = budget(keep, visual)
        expected = maps[layer - 2][0].mean(dim=0)[-1, shown].topk(kept).indices.sort().values.tolist()
        with compress(model, "fastv", keep=keep, layer=layer) as compression:
            model.generate(**inputs, max_new_tokens=2)
        assert compression.last[0].kept.tolist() == expected, (layer, keep)
        assert compression.last[0].kv_visual == [visual] * (layer - 1) + [kept] * (LAYERS + 1 - layer)


@ONE_FAMILY
@pytest.mark.parametrize("layer", [-1, 0, 1, LAYERS + 1])
def test_fastv_layer_out_of_range(model: Any, layer: int) -> None:
    with pytest.raises(UserError, match=f"layer={layer}"):
        compress(model, "fastv", keep=0.5, layer=layer)
