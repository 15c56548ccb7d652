"""Frames and pixels by which a prompt comes near a number of visual tokens: the paper's own among them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlavaOnevisionConfig, Qwen2VLConfig

from harness.compressor import budget
from harness.models import _KNOWN, ModelInfo
from model_wrappers.errors import UserError
from model_wrappers.vila.config import VilaConfig

# As published: 384-pixel tiles of 27 x 27 tokens, in canvases of 1 x 1 to 6 x 6.
LLAVA = LlavaOnevisionConfig(
    vision_config={"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14},
    image_grid_pinpoints=[[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
)
QWEN = Qwen2VLConfig(vision_config={"patch_size": 14, "spatial_merge_size": 2})
CONFIGS = {
    "qwen2_vl": QWEN,
    "llava_onevision": LLAVA,
    "llava_llama": VilaConfig(vision_config={"image_size": 384, "patch_size": 14}),
}


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_config", lambda info, folder: CONFIGS[info.family])
    monkeypatch.setattr("model_wrappers.families.checkpoint.find_checkpoint", lambda name, revision: None)


def settings(
    name: str, media: Any, max_visual: int = 1500, frames: int | None = None, raised: bool = False
) -> dict[str, Any]:
    return budget.settings(_KNOWN[name], media, max_visual, frames, raised=raised)


def test_the_papers_own_prompts_fit() -> None:
    """1,296, 1,569 and 1,568 visual tokens a video, 8 frames each (section 4.1); 1,849 an image are lowered."""
    qwen, llava, vila = "Qwen2-VL-7B-Instruct", "llava-onevision-qwen2-7b-ov-hf", "Llama-3-VILA1.5-8b"
    assert settings(qwen, "video") == {"max_pixels": 504 * 504, "min_pixels": 504 * 504, "nframe": 8}
    assert settings(llava, "video") == {"nframe": 8}
    assert settings(vila, "video") == {"nframe": 8}
    assert settings(qwen, "image") == {"image_pixels": 1500 * 28 * 28}
    assert settings(qwen, "image", 2000) == {"image_pixels": 1204 * 1204}
    assert settings(llava, "image") == {"max_pixels": 384 * 384}  # 729 + 27 * 28 = 1,485
    assert settings(vila, "image") == {"nframe": 1}


def test_a_smaller_budget_shows_less() -> None:
    assert settings("Qwen2-VL-7B-Instruct", "video", 400) == {
        "max_pixels": 100 * 28 * 28,
        "min_pixels": 80 * 28 * 28,
        "nframe": 8,
    }
    assert settings("llava-onevision-qwen2-7b-ov-hf", "video", 800) == {"nframe": 4}
    assert settings("Llama-3-VILA1.5-8b", "video", 800) == {"nframe": 4}


def test_a_larger_budget_shows_more_where_frames_are_asked_for() -> None:
    assert settings("Qwen2-VL-7B-Instruct", "video", 6000, 32) == {
        "max_pixels": 504 * 504,
        "min_pixels": 504 * 504,
        "nframe": 32,
    }
    assert settings("llava-onevision-qwen2-7b-ov-hf", "video", 6000, 64) == {"nframe": 32}
    assert settings("llava-onevision-qwen2-7b-ov-hf", "image", 6000) == {"max_pixels": 6 * 384 * 384}


def test_a_budget_that_was_asked_for_is_reached_without_more() -> None:
    """By pixels in Qwen2-VL and in LLaVA's images, by frames where a frame has one size."""
    qwen, llava, vila = "Qwen2-VL-7B-Instruct", "llava-onevision-qwen2-7b-ov-hf", "Llama-3-VILA1.5-8b"
    found = settings(qwen, "video", 6000, raised=True)
    assert found == {"max_pixels": 1500 * 784, "min_pixels": int(0.8 * 1500 * 784), "nframe": 8}
    assert settings(qwen, "image", 6000, raised=True) == {"image_pixels": 6000 * 784}
    assert settings(llava, "video", 6000, raised=True) == {"nframe": 32}  # 32 * 196 + 1 = 6,273 <= 6,300
    assert settings(vila, "video", 6000, raised=True) == {"nframe": 32}
    assert settings(vila, "video", 6000, 12, raised=True) == {"nframe": 12}
    assert settings(vila, "image", 6000, raised=True) == {"nframe": 1}
    assert settings(qwen, "video", 400, raised=True) == settings(qwen, "video", 400)
    micro = ModelInfo("mine", "llava_onevision", "mine", defaults={"max_pixels": 384 * 384})
    assert budget.settings(micro, "image", 6000) == {"max_pixels": 384 * 384}
    assert budget.settings(micro, "image", 6000, raised=True) == {"max_pixels": 6 * 384 * 384}


def test_a_checkpoint_that_nobody_knows() -> None:
    info = ModelInfo("mine", "qwen2_vl", "mine")
    assert budget.settings(info, "video", 1500) == {"max_pixels": 375 * 784, "min_pixels": 784, "nframe": 8}
    assert budget.settings(info, "image", 1500) == {"max_pixels": 1500 * 784, "min_pixels": 784}


def test_less_than_one_frame() -> None:
    with pytest.raises(UserError, match="--max-visual 100: one image or frame of .* has 196 visual tokens"):
        settings("Llama-3-VILA1.5-8b", "image", 100)
    with pytest.raises(UserError, match="has 197 visual tokens"):
        settings("llava-onevision-qwen2-7b-ov-hf", "video", 100)
