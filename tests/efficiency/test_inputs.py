"""A made-up input has the tokens asked for, on the real classes, and the paper's inputs are what the paper says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.efficiency.inputs import AFTER, BEFORE, Media, make
from harness.efficiency.request import check
from harness.efficiency.shapes import build, config_of, cut_layers, shape_names
from harness.models import open_model
from model_wrappers.encoding import encode
from model_wrappers.errors import UserError
from tests.efficiency.conftest import TOKENS


@pytest.mark.parametrize(
    ("model", "tokens", "media", "said"),
    [
        ("llava-onevision-qwen2-7b-ov-hf", 1728, "image", "384 x 512 pixels"),
        ("Qwen2-VL-7B-Instruct", 1302, "image", "868 x 1176 pixels"),
        ("llava-onevision-qwen2-7b-ov-hf", 6272, "video", "32 frames of 384 x 384 pixels"),
        ("Qwen2-VL-7B-Instruct", 5824, "video", "32 frames of 392 x 728 pixels"),
        ("Llama-3-VILA1.5-8b", 3136, "video", "16 frames of 384 x 384 pixels"),
    ],
)
def test_the_inputs_of_the_papers_tables_7_and_8(model: str, tokens: int, media: Media, said: str) -> None:
    newline = model.startswith("llava") and media == "video"
    assert tokens + newline == (made := make(config_of(model), tokens, media)).n_visual
    assert made.said == said
    assert made.tensors["input_ids"].shape == (1, tokens + newline + BEFORE + AFTER)


@pytest.mark.parametrize(
    ("model", "tokens", "said"),
    [
        ("micro-qwen2-vl", 144, "8 frames of 168 x 168 pixels"),  # as the micro videos are: 4 steps of time, 36 tokens
        ("Qwen2-VL-7B-Instruct", 1296, "8 frames of 504 x 504 pixels"),  # as the paper's are, section 4.1
        ("Qwen2-VL-7B-Instruct", 5824, "32 frames of 392 x 728 pixels"),
        ("Qwen2-VL-7B-Instruct", 100, "2 frames of 280 x 280 pixels"),  # no frame is so small: a single step
    ],
)
def test_a_video_has_frames_as_an_experiment_shows_them(model: str, tokens: int, said: str) -> None:
    found = check(model, tokens, media="video", methods=["random"], random_weights=model in shape_names())
    assert (found.given.n_visual, found.given.said) == (tokens, said)


@pytest.mark.parametrize("media", ["image", "video"])
@pytest.mark.parametrize("family", list(TOKENS))
def test_the_real_encoders_make_as_many_tokens(family: str, media: Media, folders: dict[str, Path]) -> None:
    tokens = {"video": TOKENS, "image": {"qwen2_vl": 15, "llava_onevision": 9 + 18 + 3, "vila": 16}}[media][family]
    model = open_model(str(folders[family])).model
    given = make(model.config, tokens, media)
    (prompt,) = encode(model, given.tensors)
    assert prompt.n_visual == given.n_visual == tokens + (family == "llava_onevision" and media == "video")
    assert prompt.media == ("image" if family == "vila" else media)
    assert int(prompt.instruction.sum()) == AFTER
    places = given.extents[~given.extents.isnan().any(dim=1)]
    assert bool((places[:, ::2] < places[:, 1::2]).all()) and float(places.max()) == 1.0


@pytest.mark.parametrize(
    ("model", "tokens", "media", "said"),
    [
        ("llava-onevision-qwen2-7b-ov-hf", 1700, "video", "a video frame has 196"),
        ("llava-onevision-qwen2-7b-ov-hf", 1727, "image", "near that, an image has .*1728"),
        ("Llama-3-VILA1.5-8b", 392, "image", "an image has 196, a video a multiple"),
        ("Llama-3-VILA1.5-8b", 200, "video", "an image has 196, a video a multiple"),
    ],
)
def test_what_no_picture_has_is_refused(model: str, tokens: int, media: Media, said: str) -> None:
    with pytest.raises(UserError, match=f"--tokens {tokens} cannot be made: .*{said}"):
        make(config_of(model), tokens, media)


PARAMETERS = {
    "Qwen2-VL-2B-Instruct": 2.21e9,
    "Qwen2-VL-7B-Instruct": 8.29e9,
    "llava-onevision-qwen2-0.5b-ov-hf": 0.894e9,
    "llava-onevision-qwen2-7b-ov-hf": 8.03e9,
    "Llama-3-VILA1.5-8b": 8.49e9,
    "Llama-3-VILA1.5-8B-Fix": 8.49e9,
}
"""As published; VILA: Llama-3 8.03, SigLIP without its head 0.413, projector 0.036."""


@pytest.mark.parametrize("name", shape_names())
def test_shapes_have_the_published_parameters(name: str) -> None:
    config = config_of(name)
    model = build(config, "meta", torch.bfloat16)
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(PARAMETERS[name], rel=0.005)
    assert model.dtype == torch.bfloat16 and {each.device.type for each in model.parameters()} == {"meta"}
    cut_layers(config, 3)
    small = build(config, "meta", torch.bfloat16)
    assert len(small.model.language_model.layers) == 3
    blocks = small.model.visual.blocks if hasattr(small.model, "visual") else small.model.vision_tower.encoder.layers
    assert len(blocks) == 3


def test_an_unknown_shape() -> None:
    with pytest.raises(UserError, match="the shape of 'Qwen3' is not known; known are Qwen2-VL-2B-Instruct"):
        config_of("Qwen3")
