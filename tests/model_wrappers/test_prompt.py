"""Encoding: the same prompt from a batch or alone, equal to what the model's own forward makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_wrappers import UserError, encode
from tests.model_wrappers.conftest import IMAGE, MIXED, PROMPTS, TEXT, VIDEO, padded_on_the_right
from tests.model_wrappers.table import ONE_FAMILY, Family


@pytest.mark.parametrize("media", list(PROMPTS))
def test_equals_what_generate_feeds_the_decoder(model: Any, ask: Any, media: str) -> None:
    inputs = ask(PROMPTS[media])
    seen: dict[str, Any] = {}

    def look(module: Any, args: Any, kwargs: Any) -> None:
        seen.setdefault("embeds", kwargs["inputs_embeds"])
        seen.setdefault("positions", kwargs["position_ids"])

    handle = model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
    model.generate(**inputs, max_new_tokens=1)
    handle.remove()
    (prompt,) = encode(model, inputs)
    assert torch.equal(prompt.inputs_embeds, seen["embeds"][0])
    positions = seen["positions"]
    assert torch.equal(prompt.position_ids, positions[-3:, 0] if positions.ndim == 3 else positions)
    assert torch.equal(prompt.input_ids, inputs["input_ids"][0])
    assert prompt.next_position == int(prompt.position_ids[0, -1]) + 1


def test_facts_of_a_mixed_prompt(model: Any, ask: Any, family: Family) -> None:
    inputs = ask(MIXED)
    (prompt,) = encode(model, inputs)
    assert prompt.grids == family.grids["mixed"]
    assert prompt.n_visual == family.visual("mixed") == int(prompt.visual.sum())
    assert prompt.media == ("image" if family.video is None else "video")
    assert encode(model, ask(IMAGE))[0].media == "image"
    last = int(prompt.visual.nonzero()[-1])
    assert prompt.instruction.nonzero().squeeze(1).tolist() == list(range(last + 1, len(prompt.input_ids)))
    if family.name == "qwen2_vl":
        # M-RoPE lets an image of 3 x 4 tokens take 4 positions, so the text goes on before the row number.
        assert prompt.next_position < len(prompt.input_ids)
    else:
        assert prompt.position_ids.tolist() == [list(range(len(prompt.input_ids)))]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_prompts(model: Any, ask: Any, side: str) -> None:
    inputs = ask(MIXED, TEXT, IMAGE, VIDEO)
    together = encode(model, inputs if side == "left" else padded_on_the_right(inputs))
    for prompt, parts in zip(together, (MIXED, TEXT, IMAGE, VIDEO), strict=True):
        (alone,) = encode(model, ask(parts))
        assert torch.equal(prompt.input_ids, alone.input_ids)
        assert torch.equal(prompt.position_ids, alone.position_ids)
        torch.testing.assert_close(prompt.inputs_embeds, alone.inputs_embeds)
        assert (prompt.grids, prompt.sample_id) == (alone.grids, alone.sample_id)


def test_text_only(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(TEXT))
    assert (prompt.n_visual, prompt.grids) == (0, [])
    assert bool(prompt.instruction.all())


@ONE_FAMILY
def test_sample_id_is_of_the_content(model: Any, ask: Any) -> None:
    ids = [encode(model, ask(parts))[0].sample_id for parts in (IMAGE, VIDEO, [IMAGE[0], "What else?"])]
    assert len(set(ids)) == 3
    assert [prompt.sample_id for prompt in encode(model, ask(IMAGE, VIDEO), ["a", "b"])] == ["a", "b"]


def test_placeholders_without_pixels(model: Any, ask: Any) -> None:
    inputs = {name: value for name, value in ask(IMAGE).items() if name != "pixel_values"}
    with pytest.raises(UserError, match="pixel_values"):
        encode(model, inputs)


def test_more_placeholders_than_features(model: Any, ask: Any, family: Family) -> None:
    inputs = dict(ask(IMAGE))
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][0, -1] = model.config.image_token_id
    visual = family.visual("image")
    with pytest.raises(UserError, match=f"{visual + 1} image placeholders.*{visual} features"):
        encode(model, inputs)
