"""What only LLaVA-OneVision has: newline tokens, several images as one list, another answer of each transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_wrappers import compress, encode
from tests.model_wrappers.conftest import VIDEO, answer, picture
from tests.model_wrappers.table import only

LLAVA = only("llava_onevision")


@LLAVA
def test_newlines_are_visual_tokens(model: Any, ask: Any) -> None:
    """A video has one, last; a picture of four rows of tiles has four, and may lose them."""
    newline = model.model.image_newline
    (prompt,) = encode(model, ask(VIDEO))
    assert torch.equal(prompt.inputs_embeds[prompt.visual][-1], newline)
    (prompt,) = encode(model, ask([picture(4, 5)]))
    places = (prompt.inputs_embeds[prompt.visual] == newline).all(dim=-1).nonzero().squeeze(1)
    assert places.tolist() == [9 + 6, 9 + 13, 9 + 20, 9 + 27]
    with compress(model, "uniform", keep=0.2) as compression:
        answer(model, ask([picture(4, 5)]))
    assert compression.last[0].visual == 37 and len(set(compression.last[0].kept.tolist()) & set(places.tolist())) < 4


@LLAVA
@pytest.mark.parametrize("method", ["first_layer_attention", "fastv"])
def test_several_images_in_one_list(model: Any, ask: Any, method: str) -> None:
    """Where a prompt's images are given as a list, its processor squares each and cuts none into tiles."""
    nested = [[picture(2, 3, 1), picture(3, 2, 2)], [picture(4, 5)]]
    texts = ["<image>\nand <image>\nA?", "<image>\nB?"]
    inputs = ask.processor(text=texts, images=nested, return_tensors="pt", padding=True)
    prompts = encode(model, inputs)
    assert [prompt.n_visual for prompt in prompts] == [10 + 10, 37]
    with compress(model, method, keep=1.0):
        same = answer(model, inputs)
    assert all(torch.equal(a, b) for a, b in zip(same.logits, answer(model, inputs).logits, strict=True))
    with compress(model, method, keep=0.25) as compression:
        answer(model, inputs)
    together = [record.kept.tolist() for record in compression.last]
    for parts, text, kept in zip(nested, texts, together, strict=True):
        with compress(model, method, keep=0.25) as compression:
            answer(model, ask.processor(text=text, images=[parts], return_tensors="pt"))
        assert compression.last[0].kept.tolist() == kept
