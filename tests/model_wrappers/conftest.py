"""One tiny model of each family, and questions for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from tests.model_wrappers.table import FAMILIES, LAYERS, Family
from tests.tiny import TOKEN_PIXELS, add_compressors


def picture(rows: int, columns: int, seed: int = 0) -> Image.Image:
    """Noise that becomes rows x columns visual tokens of Qwen2-VL."""
    side = TOKEN_PIXELS
    pixels = np.random.default_rng(seed).integers(0, 255, (rows * side, columns * side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def clip(frames: int, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """A video of noise that becomes frames / 2 x rows x columns visual tokens of Qwen2-VL."""
    side = TOKEN_PIXELS
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, (frames, 3, rows * side, columns * side), dtype=torch.uint8, generator=generator)


class Asker:
    """Turns prompts (lists of text, pictures and clips) into what a family's real processor returns."""

    def __init__(self, family: Family, processor: Any) -> None:
        self.family, self.processor = family, processor

    def __call__(self, *prompts: list[Any]) -> BatchFeature:
        texts: list[str] = []
        images: list[Image.Image] = []
        videos: list[torch.Tensor] = []
        for parts in prompts:
            content = ""
            for part in parts:
                if isinstance(part, str):
                    content += part
                elif isinstance(part, Image.Image):
                    content += self.family.image
                    images.append(part)
                elif self.family.video is not None:
                    content += self.family.video
                    videos.append(part)
                else:
                    content += self.family.image * len(part)
                    images += [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in part]
            message = [{"role": "user", "content": [{"type": "text", "text": content}]}]
            texts.append(self.processor.apply_chat_template(message, add_generation_prompt=True))
        return self.processor(
            text=texts, images=images or None, videos=videos or None, return_tensors="pt", padding=True
        )


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="session")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with compressors inside."""
    folder = tmp_path_factory.mktemp("checkpoints") / f"tiny-{family.name}"
    family.build(folder, num_hidden_layers=LAYERS)
    add_compressors(folder)
    return folder


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    return load(folder)


@pytest.fixture(scope="session")
def ask(family: Family, folder: Path) -> Asker:
    return Asker(family, AutoProcessor.from_pretrained(folder))


def load(folder: Path, **settings: Any) -> Any:
    """A family's own class, from a checkpoint folder."""
    return AutoModelForImageTextToText.from_pretrained(folder, **settings).eval()


IMAGE = [picture(4, 5), "What is é?"]
MIXED = [picture(3, 4, 1), "first,", picture(2, 3, 2), "then", clip(6, 2, 2, 3), "which?"]
VIDEO = ["Look:", clip(6, 3, 3, 4), "what happens?"]
TEXT = ["Only words."]
PROMPTS = {"image": IMAGE, "mixed": MIXED, "video": VIDEO, "text": TEXT}

STEPS = 4


def answer(model: Any, inputs: Any, **settings: Any) -> Any:
    """generate() for exactly STEPS tokens, with the logits of each step."""
    settings = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, **settings}
    return model.generate(**inputs, return_dict_in_generate=True, output_logits=True, **settings)


def new_tokens(output: Any, inputs: Any) -> torch.Tensor:
    return output.sequences[:, inputs["input_ids"].shape[1] :]


def visual_of(model: Any, inputs: Any) -> torch.Tensor:
    """[L] bool of a single prompt."""
    ids = inputs["input_ids"][0]
    config = model.config
    return (ids == config.image_token_id) | (ids == getattr(config, "video_token_id", config.image_token_id))


def padded_on_the_right(inputs: Any) -> dict[str, Any]:
    """The same batch with its padding moved behind the prompts."""
    moved = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in moved:
            rows = zip(moved[name], inputs["attention_mask"], strict=True)
            moved[name] = torch.stack([row.roll(int(mask.sum()) - len(mask)) for row, mask in rows])
    return moved


def padded_on_the_left(inputs: Any, tokens: int) -> dict[str, Any]:
    """A prompt with so many tokens of padding before it."""
    padded = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in padded:
            padded[name] = torch.nn.functional.pad(padded[name], (tokens, 0))
    return padded
