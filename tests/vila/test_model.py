"""The whole model against its parts put together by hand, and what Hugging Face's machinery does with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from model_wrappers.errors import UserError
from model_wrappers.vila import VilaForConditionalGeneration, VilaProcessor, load_hub_layout
from tests.tiny_vila import tiny_vila
from tests.vila import reference

STEPS = 6


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PROMPTS: list[tuple[str, list[Image.Image]]] = [
    ("<|begin_of_text|>Look: <image>\nand\n<image>\n<image>\nwhich is it?", [noise(0), noise(1), noise(2)]),
    ("<|begin_of_text|><image>\nWhat?", [noise(3)]),
    ("<|begin_of_text|>Only words, and no image.", []),
]


@pytest.fixture(scope="module")
def processor() -> VilaProcessor:
    return VilaProcessor.from_pretrained(tiny_vila())


@pytest.fixture(scope="module")
def model() -> Any:
    return VilaForConditionalGeneration.from_pretrained(tiny_vila()).eval()


def answer(model: Any, inputs: Any, **settings: Any) -> Any:
    return model.generate(
        **inputs,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **settings,
    )


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("patches", [8, 7])
@pytest.mark.parametrize("prompt", range(3))
def test_logits_are_those_of_the_parts(prompt: int, patches: int, adds_bos: bool) -> None:
    """Tower, projector, several images among the texts, decoder: all by hand from the published files."""
    hub = tiny_vila(layout="hub", patches=patches, adds_bos=adds_bos)
    processor, model = VilaProcessor.from_pretrained(hub), load_hub_layout(hub)
    text, images = PROMPTS[prompt]
    inputs = processor(text=text, images=images)
    visual = reference.features(hub, inputs["pixel_values"]) if images else []
    expected = reference.logits(hub, inputs["input_ids"][0].tolist(), processor.image_token_id, visual)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits[0], expected, rtol=1e-4, atol=1e-4)
        last = model(**inputs, logits_to_keep=2).logits[0]
    torch.testing.assert_close(last, expected[-2:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padded_batch_answers_as_each_alone(processor: VilaProcessor, attention: str) -> None:
    model = VilaForConditionalGeneration.from_pretrained(tiny_vila(), attn_implementation=attention).eval()
    batch = processor(text=[text for text, _ in PROMPTS], images=[images for _, images in PROMPTS])
    together = answer(model, batch)
    for row, (text, images) in enumerate(PROMPTS):
        alone = answer(model, processor(text=text, images=images))
        assert torch.equal(together.sequences[row, -STEPS:], alone.sequences[0, -STEPS:])
        for ours, theirs in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(ours[row], theirs[0], rtol=1e-4, atol=1e-4)


def test_generate_is_greedy_over_growing_prompts(processor: VilaProcessor, model: Any) -> None:
    """Without a cache and by hand: the images go in once, and the cache has them afterwards."""
    text, images = PROMPTS[0]
    inputs = processor(text=text, images=images)
    seen: list[bool] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"] is not None), with_kwargs=True
    )
    expected = answer(model, inputs).sequences[0, -STEPS:].tolist()
    hook.remove()
    assert seen == [True] + [False] * (STEPS - 1)
    assert answer(model, inputs, use_cache=False).sequences[0, -STEPS:].tolist() == expected
    ids, new = inputs["input_ids"], []
    for _ in range(STEPS):
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, -1]
        logits[processor.stop_ids] = -torch.inf
        new.append(int(logits.argmax()))
        ids = torch.cat((ids, torch.tensor([new[-1:]])), dim=1)
    assert new == expected


def test_generate_takes_embeddings_too(processor: VilaProcessor, model: Any) -> None:
    text, _ = PROMPTS[2]
    inputs = processor(text=text)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    given = model.generate(
        inputs_embeds=embeds, attention_mask=inputs["attention_mask"], max_new_tokens=STEPS, min_new_tokens=STEPS
    )
    assert torch.equal(given[0], answer(model, inputs).sequences[0, -STEPS:])


def test_it_saves_itself(model: Any, processor: VilaProcessor, tmp_path: Path) -> None:
    inputs = processor(text=PROMPTS[0][0], images=PROMPTS[0][1])
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again, information = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is VilaForConditionalGeneration
    assert not any(information.values())
    assert again.generation_config.eos_token_id == processor.stop_ids
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, model(**inputs).logits)


def test_it_learns(processor: VilaProcessor) -> None:
    """The loss is over the labels alone, and every part that is used has a gradient."""
    model = VilaForConditionalGeneration.from_pretrained(tiny_vila())
    inputs = processor(text=PROMPTS[1][0], images=PROMPTS[1][1])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)
    output = model(**inputs, labels=labels)
    rows = labels[0, 1:] != -100
    chances = output.logits[0, :-1].log_softmax(dim=-1)[rows]
    expected = -chances[torch.arange(len(chances)), labels[0, 1:][rows]].mean()
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without and all("encoder.layers.2." in name or "post_layernorm" in name for name in without)


def test_a_prompt_without_its_images_is_told(processor: VilaProcessor, model: Any) -> None:
    inputs = processor(text=PROMPTS[1][0], images=PROMPTS[1][1])
    with pytest.raises(UserError, match="16 image placeholders but there are no pixel_values"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(UserError, match="16 image placeholders, the images gave 32 features"):
        model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"].repeat(2, 1, 1, 1))
    with pytest.raises(UserError, match="pixel_values need input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32), pixel_values=inputs["pixel_values"])


def test_half_precision(processor: VilaProcessor, caplog: pytest.LogCaptureFixture) -> None:
    inputs = processor(text=PROMPTS[0][0], images=PROMPTS[0][1])
    with caplog.at_level(logging.WARNING):
        model = VilaForConditionalGeneration.from_pretrained(tiny_vila(), dtype=torch.bfloat16).eval()
        with torch.no_grad():
            logits = model(**inputs).logits
    assert logits.dtype == torch.bfloat16 and bool(logits.isfinite().all())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not caplog.records
