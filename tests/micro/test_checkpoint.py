"""The committed checkpoint: small, loaded by Hugging Face's own classes, and able to answer what it was trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from harness.micro import editions
from harness.micro.cli import CHECKPOINTS
from harness.models import open_model
from model_wrappers.compressor import Compressor

CHECKPOINT = CHECKPOINTS / "micro-qwen2-vl"


@pytest.fixture(scope="module")
def model() -> Any:
    family = open_model("micro-qwen2-vl")
    yield family
    family.close()


def test_under_eight_megabytes_in_half_precision() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["dtype"] == "float16"


def test_plain_hugging_face_loads_it() -> None:
    model, report = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    processor = Qwen2VLProcessor.from_pretrained(CHECKPOINT)
    assert processor.tokenizer("what color is the star").input_ids
    net = Compressor.from_pretrained(CHECKPOINT / "compressor-video", CHECKPOINT.name)
    assert net.n_parameters() < model.num_parameters()


def test_it_answers_unseen_scenes_from_mp4(model: Any, tmp_path: Path) -> None:
    """Scenes of neither the training nor the benchmarks' seeds, asked as MMBench-Video and ActivityNet-QA ask."""
    from harness.micro.prompts import VIDEO_FORMATS, as_asked
    from harness.micro.questions import questions
    from harness.micro.scenes import sample_scene

    rng = np.random.default_rng(77)
    right = []
    for number in range(40):
        scene = sample_scene(rng, video=True, held_out=True)
        editions.write_video(tmp_path / f"{number}.mp4", scene, seed=number)
        name = ("ActivityNet-QA", "MMBench-Video")[number % 2]
        question = questions(scene, rng)[0]
        text = VIDEO_FORMATS[name].wording(as_asked(name, question.text), [])
        parts = [{"type": "video", "value": str(tmp_path / f"{number}.mp4")}, {"type": "text", "value": text}]
        if VIDEO_FORMATS[name].question_first:
            parts.reverse()
        prompt = model.prepare(parts, name)
        assert prompt.grids == [(4, 6, 6)]
        right.append(model.answer(prompt, "vanilla", 1.0)[0].strip() == question.answer)
    assert np.mean(right) >= 0.8


def test_weights_are_finite_and_trained() -> None:
    model = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
