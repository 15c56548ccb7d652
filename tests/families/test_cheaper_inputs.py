"""Fewer frames and smaller images through VLMEvalKit's classes: what is encoded is what the class would make itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model_wrappers import compress
from model_wrappers.families.llava_onevision import LLaVAOneVision
from model_wrappers.families.qwen2_vl import Qwen2VL
from model_wrappers.families.vila import VILA
from model_wrappers.inputs import Input
from model_wrappers.methods.fewer_frames import FewerFrames
from tests.families.media import picture, video
from tests.tiny import tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

STEPS = 6
QUESTION = {"type": "text", "value": "What is left of the red square?\nA. circle\nB. star"}


def cheaper(model: Any, message: list[dict[str, str]], dataset: str, keep: float) -> Input:
    """The input with fewer frames that the model's own prompt gives."""
    source = model.prepare(message, dataset).source
    assert source is not None
    return source().cheaper(FewerFrames(), keep)


def same(found: dict[str, torch.Tensor], expected: Any) -> None:
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_llava_is_told_of_the_frames_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LLaVAOneVision(tiny_llava_onevision(), device="cpu", nframe=4, max_new_tokens=STEPS)
    clips = [{"type": "video", "value": video(tmp_path / f"{n}.mp4", 40, seed=n)} for n in range(2)]
    image = {"type": "image", "value": picture(tmp_path / "image.png")}
    for message in ([clips[0], QUESTION], [image, clips[0], QUESTION, clips[1]]):
        full = model.prepare(message, "MVBench").source
        assert full is not None
        monkeypatch.setattr(model, "_frame_indices", lambda *_: [13, 39])  # of 0, 13, 26, 39: the second and the fourth
        expected = model.decode(message, "MVBench").inputs
        monkeypatch.undo()
        keep = expected["input_ids"].eq(model.model.config.video_token_id).sum() / full().tokens
        images = full().images
        share = (float(keep) * full().tokens + sum(each.tokens for each in images)) / full().tokens
        same(cheaper(model, message, "MVBench", share).encoder_inputs(), expected)
        text = model.processor.tokenizer.decode(expected["input_ids"][0])
        assert "2 frames are uniformly sampled from it. These frames are located at 3.25s, 9.75s." in text


@pytest.mark.parametrize("adds_bos", [False, True])
def test_vila_reads_the_message_without_the_other_frames(adds_bos: bool, tmp_path: Path) -> None:
    model = VILA(tiny_vila(adds_bos=adds_bos), device="cpu", max_new_tokens=STEPS)
    frames = [{"type": "image", "value": picture(tmp_path / f"{n}.png", seed=n)} for n in range(4)]
    then = {"type": "text", "value": "then\n"}
    message = [*frames[:2], then, *frames[2:], QUESTION]
    found = cheaper(model, message, "Video-MME", 0.5)
    same(found.encoder_inputs(), model.decode([frames[1], then, frames[3], QUESTION], "Video-MME").inputs)
    prompt = model.prepare(message, "Video-MME")
    text, record = model.answer(prompt, "fewer_frames", 0.5)
    assert (record.visual, record.realised, record.kv_visual) == (64, 32, [32] * 6)
    assert text == model.answer(model.encode(model.decode([frames[1], then, frames[3], QUESTION])), "vanilla", 1.0)[0]


def test_qwen_answers_as_inside_compress(tmp_path: Path) -> None:
    model = Qwen2VL(tiny_qwen2_vl(), device="cpu", nframe=8, min_pixels=3136, max_pixels=12544, max_new_tokens=STEPS)
    message = [{"type": "video", "value": video(tmp_path / "clip.mp4", 16)}, QUESTION]
    inputs = model.decode(message).inputs
    prompt = model.prepare(message)
    for name in ("downsample", "fewer_frames"):
        text, record = model.answer(prompt, name, 0.5)
        with compress(model.model, name, keep=0.5) as compression:
            ids = model.model.generate(**inputs, **model.generate_kwargs)[0, inputs["input_ids"].shape[1] :]
        assert text == model.processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert compression.last[0].realised == record.realised <= prompt.n_visual // 2
    (place, together, record_there, _) = next(iter(model.answer_together(prompt, [(FewerFrames(), 0.5)])))
    assert (place, together) == (0, text) and record_there is not None and record_there.made == record.made
