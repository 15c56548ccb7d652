"""The committed checkpoints: small, loaded by their own classes, and able to answer what they were trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

import model_wrappers.vila  # noqa: F401  (its class joins Hugging Face's)
from harness.micro import editions
from harness.micro.cli import CHECKPOINTS
from harness.micro.families import FAMILIES, family
from harness.models import open_model
from model_wrappers.compressor import Compressor

MODELS = list(FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_under_eight_megabytes_in_half_precision(name: str) -> None:
    files = [path for path in (CHECKPOINTS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]
    config = json.loads((CHECKPOINTS / name / "config.json").read_text())
    assert config["dtype"] == "float16"


@pytest.mark.parametrize("name", MODELS)
def test_its_own_class_loads_it_whole(name: str) -> None:
    folder, made = CHECKPOINTS / name, family(name)
    loaded, processor = made.load(folder)
    again, report = type(loaded).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert AutoConfig.from_pretrained(folder).model_type == again.config.model_type
    assert all(torch.isfinite(parameter).all() for parameter in loaded.parameters())
    assert processor.tokenizer.get_vocab() == made.tokenizer().get_vocab()
    for media in ("video",) if made.few else ("video", "image"):
        net = Compressor.from_pretrained(folder / f"compressor-{media}", name)
        assert net.n_parameters() < loaded.num_parameters()


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    made = open_model(request.param)
    yield request.param, made
    made.close()


def test_it_answers_unseen_scenes_from_files(model: Any, tmp_path: Path) -> None:
    """Scenes of neither the training nor the benchmarks' seeds, as videos and as images."""
    from PIL import Image

    import harness.benchmarks.activitynet_qa  # noqa: F401  # known to the kit from here on, as a set of videos
    from harness.micro.prompts import as_asked
    from harness.micro.questions import questions
    from harness.micro.scenes import render, sample_scene

    name, wrapper = model
    made = family(name)
    rng = np.random.default_rng(77)
    right: dict[str, list[bool]] = {"video": [], "image": []}
    for number in range(48):
        kind = ("video", "image")[number % 2]
        scene = sample_scene(rng, video=kind == "video", held_out=True, apart=kind == "image")
        question = questions(scene, rng)[0]
        asked = "ActivityNet-QA" if kind == "video" else "VQA"
        form = {**made.video, **made.image}[asked]
        text = {"type": "text", "value": form.wording(as_asked(asked, question.text), [])}
        path = tmp_path / f"{number}.{'mp4' if kind == 'video' else 'png'}"
        if kind == "video":
            editions.write_video(path, scene, seed=number)
            media = [{"type": "video", "value": str(path)}]
        else:
            Image.fromarray(render(scene, rng)[0]).save(path)
            media = [{"type": "image", "value": str(path)}]
        if kind == "video" and not wrapper.VIDEO_LLM:
            media = _frames(path, tmp_path)
        prompt = wrapper.prepare([*media, text], asked if kind == "video" else "MMVet")
        assert prompt.media == kind and prompt.n_visual == prompt.extents.shape[0]
        right[kind].append(wrapper.answer(prompt, "vanilla", 1.0)[0].strip() == question.answer)
    assert np.mean(right["video"]) >= 0.8 and np.mean(right["image"]) >= 0.75


def _frames(video: Path, folder: Path) -> list[dict[str, str]]:
    """Eight frames as images, as VLMEvalKit gives them to a model that takes no video."""
    from decord import VideoReader
    from PIL import Image

    reader = VideoReader(str(video))
    indices = [int(i * len(reader) / 9) for i in range(1, 9)]
    paths = []
    for number, frame in enumerate(reader.get_batch(indices).asnumpy()):
        paths.append(folder / f"{video.stem}-{number}.jpg")
        Image.fromarray(frame).save(paths[-1])
    return [{"type": "image", "value": str(path)} for path in paths]
