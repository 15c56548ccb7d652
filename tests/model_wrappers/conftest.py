"""One tiny model a session, and questions for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature, Qwen2VLForConditionalGeneration

from tests.tiny import TOKEN_PIXELS, add_compressors, tiny_qwen2_vl


def picture(rows: int, columns: int, seed: int = 0) -> Image.Image:
    """Noise that becomes rows x columns visual tokens."""
    side = TOKEN_PIXELS
    pixels = np.random.default_rng(seed).integers(0, 255, (rows * side, columns * side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def clip(frames: int, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """A video of noise that becomes frames / 2 x rows x columns visual tokens."""
    side = TOKEN_PIXELS
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, (frames, 3, rows * side, columns * side), dtype=torch.uint8, generator=generator)


class Asker:
    """Turns prompts (lists of text, pictures and clips) into what the real processor returns."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, *prompts: list[Any]) -> BatchFeature:
        texts, images, videos = [], [], []
        for parts in prompts:
            content: list[dict[str, str]] = []
            for part in parts:
                if isinstance(part, str):
                    content.append({"type": "text", "text": part})
                elif isinstance(part, Image.Image):
                    content.append({"type": "image"})
                    images.append(part)
                else:
                    content.append({"type": "video"})
                    videos.append(part)
            message = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(message, add_generation_prompt=True))
        return self.processor(
            text=texts, images=images or None, videos=videos or None, return_tensors="pt", padding=True
        )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with compressors inside."""
    folder = tiny_qwen2_vl(tmp_path_factory.mktemp("checkpoints") / "tiny-qwen2-vl")
    add_compressors(folder)
    return folder


@pytest.fixture(scope="session")
def model(folder: Path) -> Qwen2VLForConditionalGeneration:
    return Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="session")
def ask(folder: Path) -> Asker:
    return Asker(AutoProcessor.from_pretrained(folder))


IMAGE = [picture(4, 5), "What is é?"]
MIXED = [picture(3, 4, 1), "first,", picture(2, 3, 2), "then", clip(4, 2, 3, 3), "which?"]
VIDEO = ["Look:", clip(8, 3, 3, 4), "what happens?"]
TEXT = ["Only words."]
PROMPTS = {"image": IMAGE, "mixed": MIXED, "video": VIDEO, "text": TEXT}

STEPS = 5


def answer(model: Any, inputs: Any, **settings: Any) -> Any:
    """generate() for exactly STEPS tokens, with the logits of each step."""
    settings = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, **settings}
    return model.generate(**inputs, return_dict_in_generate=True, output_logits=True, **settings)


def new_tokens(output: Any, inputs: Any) -> torch.Tensor:
    return output.sequences[:, inputs["input_ids"].shape[1] :]
