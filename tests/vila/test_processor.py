"""Prompts to token ids as VILA1.5's own code makes them: conversation, images, the beginning of a text, the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from model_wrappers.errors import SampleError, UserError
from model_wrappers.vila import VilaProcessor
from tests.tiny_vila import tiny_vila

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
TOKENS = 16


def noise(width: int = 50, height: int = 30, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture(scope="module")
def processor() -> VilaProcessor:
    return VilaProcessor.from_pretrained(tiny_vila(layout="hub"))


def ids(processor: VilaProcessor, text: str) -> list[int]:
    """Token ids without any that a post-processor adds."""
    return processor.tokenizer(text, add_special_tokens=False).input_ids


def question(processor: VilaProcessor, *parts: str) -> str:
    content = [{"type": "image"} if part == "image" else {"type": "text", "text": part} for part in parts]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_conversation(processor: VilaProcessor) -> None:
    expected = (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n<image>\n Who? <b>'\n<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert question(processor, "image", "image", " Who? <b>'\n") == expected
    as_text = [{"role": "user", "content": "<image>\n<image>\n Who? <b>'\n"}]
    assert processor.apply_chat_template(as_text, add_generation_prompt=True) == expected
    turns = [*as_text, {"role": "assistant", "content": "She."}, {"role": "user", "content": "Why?"}]
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == (
        f"{expected}She.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_conversation_of_the_first_release() -> None:
    processor = VilaProcessor.from_pretrained(tiny_vila(layout="hub", root={"template": "llama_3_may_2024"}))
    assert question(processor, "image", "Who?") == (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|end_of_text|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWho?<|end_of_text|>"
        "<|start_header_id|>system<|end_header_id|>\n\n"
    )


def test_a_tokenizer_that_adds_no_beginning_loses_the_newline_after_an_image(processor: VilaProcessor) -> None:
    text = question(processor, "image", "image", "Who?")
    before, between, after = text.split("<image>")
    assert (between, after[0]) == ("\n", "\n")
    visual = [processor.image_token_id] * TOKENS
    got = processor(text=text, images=[noise(), noise()])["input_ids"][0].tolist()
    assert got == [*ids(processor, before), *visual, *visual, *ids(processor, after[1:])]
    assert got.count(processor.tokenizer.bos_token_id) == 1
    assert processor.tokenize(text.replace("<image>\nWho", "<image>Who"))[-len(ids(processor, after)) + 2 :] == ids(
        processor, after[2:]
    )  # without a newline the question loses its first token


def test_a_tokenizer_that_adds_one_keeps_two_in_front_and_all_newlines() -> None:
    processor = VilaProcessor.from_pretrained(tiny_vila(layout="hub", adds_bos=True))
    bos = processor.tokenizer.bos_token_id
    text = question(processor, "image", "then", "image", "Who?")
    before, between, after = text.split("<image>")
    visual = [processor.image_token_id] * TOKENS
    got = processor(text=text, images=[noise(), noise()])["input_ids"][0].tolist()
    assert got == [bos, *ids(processor, before), *visual, *ids(processor, between), *visual, *ids(processor, after)]
    assert got[:2] == [bos, bos] and got.count(bos) == 2


def test_a_text_that_begins_otherwise_loses_nothing(processor: VilaProcessor) -> None:
    visual = [processor.image_token_id] * TOKENS
    assert processor.tokenize("a<image>\nb") == [*ids(processor, "a"), *visual, *ids(processor, "\nb")]
    assert processor.tokenize("<image>b") == [*visual, *ids(processor, "b")]
    assert processor.tokenize("no image") == ids(processor, "no image")


def test_images_are_squeezed_by_pil(processor: VilaProcessor) -> None:
    for mode in ("RGB", "L", "RGBA"):
        picture = noise(mode=mode)
        got = processor(text="<image>", images=picture)["pixel_values"][0]
        small = picture.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
        expected = torch.tensor(np.asarray(small, dtype=np.float64) / 255 * 2 - 1).permute(2, 0, 1)
        torch.testing.assert_close(got, expected.float(), rtol=0, atol=1e-6)


def test_a_batch_is_padded_on_the_left(processor: VilaProcessor) -> None:
    texts = ["<image>ab<image>", "x<image>yz and more", "only words"]
    batch = processor(text=texts, images=[[noise(9, 9), noise()], [noise(40, 9)]], return_tensors="pt", padding=True)
    rows = [processor.tokenize(text) for text in texts]
    for row, padded, mask in zip(rows, batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True):
        assert padded[-len(row) :] == row
        assert mask == [0] * (len(mask) - len(row)) + [1] * len(row)
    assert batch["pixel_values"].shape == (3, 3, 64, 64)
    alone = processor(text="<image>", images=noise(40, 9))["pixel_values"]
    assert torch.equal(batch["pixel_values"][2:], alone)
    assert "pixel_values" not in processor(text="only words")


def test_an_answer_ends_at_either_separator(processor: VilaProcessor) -> None:
    assert processor.tokenizer.convert_ids_to_tokens(processor.stop_ids) == ["<|eot_id|>", "<|end_of_text|>"]
    settings = processor.generation_config()
    assert settings.eos_token_id == processor.stop_ids
    assert (settings.do_sample, settings.temperature, settings.top_p) == (False, None, None)


def test_the_placeholder_is_no_token(processor: VilaProcessor) -> None:
    assert processor.image_token_id == len(processor.tokenizer)
    with pytest.raises(UserError, match="tokens, the model's embedding only"):
        VilaProcessor(processor.image_processor, processor.tokenizer, processor.image_token_id - 1, TOKENS)


def test_what_does_not_fit_is_told(processor: VilaProcessor) -> None:
    with pytest.raises(UserError, match="2 <image> where 1 images"):
        processor(text=["<image>", "<image>"], images=[noise()])
    with pytest.raises(UserError, match="frames of a video as images"):
        processor(text="x", videos=[[noise()]])
    short = VilaProcessor.from_pretrained(tiny_vila(layout="hub", tokenizer_model_max_length=40))
    assert len(short.tokenize("<image><image>12345678")) == 40
    with pytest.raises(SampleError, match="41 tokens, 32 of them visual.*made for 40"):
        short(text="<image><image>123456789", images=[noise(), noise()])


def test_it_saves_itself(processor: VilaProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tiny_vila())
    for other in (VilaProcessor.from_pretrained(tmp_path), again):
        assert type(other) is VilaProcessor
        assert type(other.image_processor) is type(processor.image_processor)
        assert (other.max_length, other.stop_ids, other.chat_template) == (
            processor.max_length,
            processor.stop_ids,
            processor.chat_template,
        )
        text = question(processor, "image", "é  a\nb")
        assert question(other, "image", "é  a\nb") == text
        ours, theirs = processor(text=text, images=noise()), other(text=text, images=noise())
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
