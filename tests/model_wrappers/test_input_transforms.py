"""Methods that change the input: which version they take, what is encoded of it, and that the answer is its own."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from model_wrappers import UserError, compress, encode
from model_wrappers.compression import generate
from model_wrappers.inputs import split
from model_wrappers.methods.downsample import Downsample
from model_wrappers.methods.fewer_frames import FewerFrames
from model_wrappers.pictures import Qwen2VLPicture
from model_wrappers.registry import method
from model_wrappers.together import generate_together
from tests.model_wrappers.conftest import (
    IMAGE,
    MIXED,
    PROMPTS,
    STEPS,
    TEXT,
    VIDEO,
    answer,
    clip,
    load,
    new_tokens,
    padded_on_the_right,
    picture,
)
from tests.model_wrappers.table import LAYERS, Family, only

QWEN = only("qwen2_vl")
LLAVA = only("llava_onevision")
VILA = only("vila")
BOTH = only("qwen2_vl", "llava_onevision")

# Counted by hand. Qwen2-VL: an image of 4 x 5 tokens becomes 3 x 3 (0.62 of each side is 2.5 x 3.1), 2 x 2 or 1 x 2.
# LLaVA-OneVision: of 3 patches a side (37 tokens) 2 are left (4 of the whole image; 4 x 4 of the tiles, whose layout of
# 2 x 2 loses the padded rows: 4 x (4 + 1 newline) with none lost) or 1; a frame of 2 x 2 becomes 1, and a video has one
# newline.
# VILA: of 5 patches a side 4 are left (3 are as many tokens) or 2; each 2 x 2 of them are a token.
DOWNSAMPLED = {
    ("qwen2_vl", "image"): {0.9: 16, 0.5: 9, 0.25: 4, 0.1: 2},
    ("qwen2_vl", "video"): {0.9: 27, 0.5: 12, 0.25: 3, 0.1: 3},
    ("llava_onevision", "image"): {0.9: 37, 0.6: 24, 0.5: 24, 0.25: 7},
    ("llava_onevision", "video"): {0.9: 25, 0.5: 7, 0.25: 7},
    ("vila", "image"): {0.9: 9, 0.5: 4, 0.25: 1, 0.1: 1},
    ("vila", "video"): {0.9: 54, 0.5: 24, 0.25: 6, 0.1: 6},
}
FEWER = {
    "qwen2_vl": {0.9: 27, 0.5: 18, 0.25: 9, 0.1: 9},  # three pairs of frames of 3 x 3; one pair is the fewest
    "llava_onevision": {0.9: 21, 0.5: 13, 0.25: 5, 0.1: 5},  # six frames of 4 and a newline
}


def realised(model: Any, inputs: Any, name: str, keep: float) -> int:
    with compress(model, name, keep=keep) as compression:
        answer(model, inputs)
    (record,) = compression.last
    (prompt,) = encode(model, inputs)
    assert (record.visual, record.keep, record.kept.tolist()) == (prompt.n_visual, keep, [])
    assert record.kv_visual == [record.realised] * LAYERS and record.scoring_seconds >= 0
    return record.realised


@pytest.mark.parametrize("media", ["image", "video"])
def test_downsample_takes_the_size_nearest_to_the_budget(model: Any, ask: Any, family: Family, media: str) -> None:
    expected = DOWNSAMPLED[family.name, media]
    assert {keep: realised(model, ask(PROMPTS[media]), "downsample", keep) for keep in expected} == expected


@BOTH
def test_fewer_frames_takes_the_number_nearest_to_the_budget(model: Any, ask: Any, family: Family) -> None:
    expected = FEWER[family.name]
    assert {keep: realised(model, ask(VIDEO), "fewer_frames", keep) for keep in expected} == expected


@QWEN
def test_pictures_of_one_prompt_share_one_factor(model: Any, ask: Any) -> None:
    """3 x 4 and 2 x 3 tokens and a video of 3 pairs of 2 x 2: at 0.9 the image of 3 x 4 goes first (7 / 8 of 4 is 3.5)
    to 3 x 3, then the rest at one factor. No other factor comes nearer to the budget.
    """
    (full,) = split(model, ask(MIXED))
    pictures = [*full.images, *full.videos]
    for keep in (0.9, 0.5, 0.25):
        made = full.cheaper(Downsample(), keep)
        (scale,) = {picture.scale for picture in (*made.images, *made.videos)}
        others = {other for picture in pictures for other in picture.scales()}
        counts = {sum(picture.scaled(other).tokens for picture in pictures) for other in others}
        allowed = int(keep * full.tokens + 0.5)
        assert made.tokens == min(counts, key=lambda count: (abs(count - allowed), count))
        for before, after in zip(pictures, (*made.images, *made.videos), strict=True):
            sides = [max(1, int(side * scale + Fraction(1, 2))) for side in before.sides]
            assert after.grid == (before.length // 2, *sides)  # type: ignore[attr-defined]


# What is encoded.


def test_the_full_input_is_put_together_as_it_was(model: Any, ask: Any) -> None:
    for parts in PROMPTS.values():
        inputs = ask(parts)
        (full,) = split(model, inputs)
        (prompt,), (again,) = encode(model, inputs), encode(model, full.encoder_inputs())
        assert full.tokens == prompt.n_visual and full.media == prompt.media
        assert torch.equal(prompt.input_ids, again.input_ids)
        assert torch.equal(prompt.inputs_embeds, again.inputs_embeds)
        assert torch.equal(prompt.position_ids, again.position_ids)


@QWEN
def test_qwen_sees_what_its_processor_makes_of_the_smaller_pixels(model: Any, ask: Any) -> None:
    """The smaller image is given to the real processor, as pixels: the same patches, grid and token ids."""
    (full,) = split(model, ask(IMAGE))
    made = full.cheaper(Downsample(), 0.5)
    pixels = torch.nn.functional.interpolate(full.images[0].frames, size=(84, 84), mode="bicubic", antialias=True)
    processor = ask.processor.image_processor
    by_hand = processor(pixels[0], do_resize=False, do_rescale=False, do_normalize=False, return_tensors="pt")
    found = made.encoder_inputs()
    assert torch.equal(found["image_grid_thw"], by_hand["image_grid_thw"])
    torch.testing.assert_close(found["pixel_values"], by_hand["pixel_values"])
    expected = ask([picture(3, 3), IMAGE[1]])
    assert torch.equal(found["input_ids"], expected["input_ids"])
    (prompt,), (other,) = encode(model, found), encode(model, expected)
    assert torch.equal(prompt.position_ids, other.position_ids) and prompt.next_position == other.next_position


@QWEN
def test_qwen_sees_what_its_processor_makes_of_fewer_frames(model: Any, ask: Any) -> None:
    (full,) = split(model, ask(VIDEO))
    found = full.cheaper(FewerFrames(), 0.7).encoder_inputs()  # frames 0 .. 5, four of them
    expected = ask([VIDEO[0], VIDEO[1][[0, 2, 3, 5]], VIDEO[2]])
    assert all(torch.equal(found[name], expected[name]) for name in found)


@LLAVA
def test_llava_sees_what_its_processor_makes_of_fewer_frames(model: Any, ask: Any) -> None:
    (full,) = split(model, ask(VIDEO))
    found = full.cheaper(FewerFrames(), 0.5).encoder_inputs()
    expected = ask([VIDEO[0], VIDEO[1][[1, 3, 5]], VIDEO[2]])
    assert all(torch.equal(found[name], expected[name]) for name in found)


def with_smaller_tower(folder: Path, patches: int) -> Any:
    """The model with a SigLIP tower of so many patches a side, its position embeddings interpolated for good."""
    small = load(folder)
    vision, tower = small.config.vision_config, small.model.vision_tower
    side = vision.image_size // vision.patch_size
    table = (tower.vision_model if hasattr(tower, "vision_model") else tower).embeddings
    grid = table.position_embedding.weight.detach().T.reshape(1, -1, side, side)
    grid = torch.nn.functional.interpolate(grid, size=(patches, patches), mode="bicubic", align_corners=False)
    table.position_embedding = torch.nn.Embedding.from_pretrained(grid.reshape(-1, patches**2).T.contiguous())
    table.position_ids = torch.arange(patches**2)[None]
    vision.image_size = patches * vision.patch_size
    return small


@VILA
def test_vila_with_smaller_images_is_the_model_of_that_size(model: Any, ask: Any, folder: Path) -> None:
    small = with_smaller_tower(folder, 4)
    for parts, tokens in ((IMAGE, 4), (VIDEO, 24)):
        (full,) = split(model, ask(parts))
        found = full.cheaper(Downsample(), 0.5).encoder_inputs()
        (prompt,), (expected,) = encode(model, found), encode(small, found)
        assert prompt.n_visual == expected.n_visual == tokens
        torch.testing.assert_close(prompt.inputs_embeds, expected.inputs_embeds)


@LLAVA
def test_llava_with_smaller_tiles_is_the_model_of_that_size(model: Any, ask: Any, folder: Path) -> None:
    small = with_smaller_tower(folder, 2)
    patch = model.config.vision_config.patch_size
    side = model.config.vision_config.image_size // patch
    small.config.image_grid_pinpoints = [
        [n // side * 2 for n in canvas] for canvas in small.config.image_grid_pinpoints
    ]
    for parts in (IMAGE, VIDEO):
        (full,) = split(model, ask(parts))
        found = full.cheaper(Downsample(), 0.5).encoder_inputs()
        (prompt,) = encode(model, found)
        (expected,) = encode(small, {name: value for name, value in found.items() if name != "batch_num_images"})
        assert prompt.n_visual == expected.n_visual == (24 if parts is IMAGE else 7)
        torch.testing.assert_close(prompt.inputs_embeds, expected.inputs_embeds)
    assert model.config.vision_config.image_size == side * patch, "the model itself is as it was"


@LLAVA
def test_llava_shows_several_images_of_one_prompt_whole(model: Any, ask: Any) -> None:
    """As Hugging Face's class has it where the images of a prompt come as a list of their own."""
    processor = ask.processor
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]}],
        add_generation_prompt=True,
    )
    inputs = processor(text=[text], images=[[picture(4, 5), picture(2, 3)]], return_tensors="pt")
    (full,) = split(model, inputs)
    assert full.tokens == 2 * (9 + 1)
    (prompt,), (again,) = encode(model, inputs), encode(model, full.encoder_inputs())
    assert torch.equal(prompt.inputs_embeds, again.inputs_embeds)
    made = full.cheaper(Downsample(), 0.5)
    assert made.tokens == 2 * (4 + 1) == encode(model, made.encoder_inputs())[0].n_visual


@LLAVA
def test_the_newline_of_a_video_costs_no_frame(model: Any, ask: Any) -> None:
    inputs = ask(["", clip(8, 2, 2), "what?"])  # 8 frames of 4 tokens and a newline
    assert [realised(model, inputs, "fewer_frames", keep) for keep in (0.5, 0.25, 0.125)] == [17, 9, 5]
    assert [realised(model, inputs, "downsample", keep) for keep in (0.5, 0.25)] == [9, 9]


def test_uniform_frames_by_hand() -> None:
    video = Qwen2VLPicture("video", torch.zeros(8, 3, 28, 28))
    chosen = {share: video.shortened(share).chosen for share in sorted(video.shares())}
    assert chosen == {Fraction(1, 4): (2, 6), Fraction(1, 2): (1, 3, 5, 7), Fraction(3, 4): (0, 2, 3, 4, 6, 7), 1: None}


# The answer, by every way in.


@BOTH
@pytest.mark.parametrize("name", ["downsample", "fewer_frames"])
def test_the_answer_is_that_to_the_cheaper_input(model: Any, ask: Any, name: str) -> None:
    inputs = ask(VIDEO)
    (full,) = split(model, inputs)
    cheaper = full.cheaper(method(name), 0.5).encoder_inputs()  # type: ignore[arg-type]
    (prompt,) = encode(model, cheaper)
    settings: dict[str, Any] = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    with compress(model, name, keep=0.5) as compression:
        output = answer(model, inputs)
    assert torch.equal(output.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    (whole,) = encode(model, inputs)
    tokens, record = generate(model, whole, method(name), 0.5, **settings)
    assert torch.equal(new_tokens(output, inputs)[0], tokens)
    assert record.realised == compression.last[0].realised == prompt.n_visual
    ((_, together, other, _),) = generate_together(model, whole, [(method(name), 0.5)], **settings)
    assert torch.equal(together, tokens) and other is not None and other.made == record.made  # type: ignore[arg-type]
    # A slow reference: the whole cheaper prompt through the model's own forward, token after token.
    embeds, positions = prompt.inputs_embeds[None], prompt.position_ids[:, None]
    table = model.get_input_embeddings()
    for step in range(STEPS):
        given = positions if len(positions) == 3 else positions[0]
        logits = model(inputs_embeds=embeds, position_ids=given, use_cache=False).logits[0, -1]
        torch.testing.assert_close(output.logits[step][0], logits, atol=2e-5, rtol=1e-4)
        embeds = torch.cat((embeds, table(tokens[step])[None, None]), dim=1)
        positions = torch.cat(
            (positions, positions[..., -1:].amax(dim=0, keepdim=True).expand(len(positions), 1, 1) + 1), -1
        )


@BOTH
def test_a_padded_batch_answers_like_its_prompts_alone(model: Any, ask: Any) -> None:
    prompts = (MIXED, TEXT, IMAGE)
    with compress(model, "downsample", keep=0.5) as compression:
        alone = []
        for parts in prompts:
            inputs = ask(parts)
            output = answer(model, inputs)
            alone.append((new_tokens(output, inputs)[0], torch.cat(output.logits), compression.last[0]))
        for moved in (dict, padded_on_the_right):
            inputs = moved(ask(*prompts))
            output = answer(model, inputs)
            for index, (tokens, logits, record) in enumerate(alone):
                assert torch.equal(new_tokens(output, inputs)[index], tokens)
                torch.testing.assert_close(torch.stack(output.logits)[:, index], logits, atol=5e-5, rtol=1e-4)
                assert compression.last[index].realised == record.realised


@pytest.mark.parametrize("name", ["downsample", "fewer_frames"])
def test_keep_one_is_untouched(model: Any, ask: Any, family: Family, name: str) -> None:
    inputs = ask(MIXED, IMAGE, TEXT)
    plain = answer(model, inputs)
    with compress(model, name, keep=1.0) as compression:
        same = answer(model, inputs)
    assert torch.equal(plain.sequences, same.sequences)
    assert all(torch.equal(one, other) for one, other in zip(plain.logits, same.logits, strict=True))
    visual = [family.visual("mixed"), family.visual("image"), 0]
    assert [record.realised for record in compression.last] == [record.visual for record in compression.last] == visual


@QWEN
def test_settings_of_generate_go_on_working(model: Any, ask: Any) -> None:
    inputs = ask(IMAGE)
    with compress(model, "downsample", keep=0.25):
        length = inputs["input_ids"].shape[1]
        assert model.generate(**inputs, max_length=length + 2, min_new_tokens=2).shape[1] == length + 2
        torch.manual_seed(0)
        first = model.generate(**inputs, do_sample=True, temperature=5.0, max_new_tokens=8, min_new_tokens=8)
        torch.manual_seed(1)
        other = model.generate(**inputs, do_sample=True, temperature=5.0, max_new_tokens=8, min_new_tokens=8)
        assert not torch.equal(first, other)


# Where there is nothing to run.


@QWEN
def test_hooks_are_gone_after_an_exception(model: Any, ask: Any) -> None:
    inputs = ask(IMAGE)
    plain = answer(model, inputs).sequences
    with pytest.raises(ZeroDivisionError), compress(model, "downsample", keep=0.5):
        answer(model, inputs)
        raise ZeroDivisionError
    assert "generate" not in vars(model)
    assert torch.equal(answer(model, inputs).sequences, plain)
    model(**inputs)
    with compress(model, "downsample", keep=0.5), pytest.raises(UserError, match="inside another"):
        compress(model, "random", keep=0.5).__enter__()


@QWEN
def test_what_compress_cannot_apply_to_says_so(model: Any, ask: Any) -> None:
    inputs = ask(IMAGE)
    (prompt,) = encode(model, inputs)
    with compress(model, "downsample", keep=0.5):
        with pytest.raises(
            UserError, match=r"inside compress\(\) call model.generate\(\*\*inputs\), not the model itself"
        ):
            model(**inputs)
        with pytest.raises(UserError, match="downsample starts from what the processor returned"):
            model.generate(inputs_embeds=prompt.inputs_embeds[None], max_new_tokens=1)
        model(**ask(TEXT))
    with compress(model, "fewer_frames", keep=0.5):
        with pytest.raises(UserError, match="fewer_frames is not defined for a prompt that shows no video"):
            model.generate(**inputs, max_new_tokens=1)
        assert model.generate(**ask(TEXT), max_new_tokens=1).shape[0] == 1
    gone = copy.copy(prompt)
    gone.source = None
    with pytest.raises(UserError, match="this prompt was encoded from one that is gone"):
        generate(model, gone, Downsample(), 0.5)


@VILA
def test_vila_says_what_it_cannot_do(model: Any, ask: Any) -> None:
    # Its frames are images to `compress`: only a sweep knows that they are a video's.
    with compress(model, "fewer_frames", keep=0.5), pytest.raises(UserError, match="shows no video"):
        model.generate(**ask(VIDEO), max_new_tokens=1)


def test_where_a_method_is_not_defined() -> None:
    none = "a prompt without image or video has no visual tokens"
    assert [method("random").undefined("qwen2_vl", shows) for shows in ("image", "video", "text")] == [None, None, none]
    assert method("vanilla").undefined("qwen2_vl", "text") is None
    assert method("fewer_frames").undefined("qwen2_vl", "image") == "it is defined for video prompts only"
    assert method("fewer_frames").undefined("retain_vila", "video") is None
    assert method("downsample").undefined("retain_vila", "video") is None


@QWEN
def test_a_video_of_few_tokens_is_cut_no_further_than_it_can_be(model: Any, ask: Any) -> None:
    inputs = ask(["", clip(8, 1, 1), "what?"])  # four pairs of one token each: no smaller size
    assert realised(model, inputs, "downsample", 0.25) == 4
    assert realised(model, inputs, "fewer_frames", 0.25) == 1
