"""Where a visual token looks, against what really moves it: paint a region of the input, see which features change.

The vision tower is made local first: each patch's feature is then of its own pixels alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from model_wrappers.families import extents
from model_wrappers.families.llava_onevision import LLaVAOneVision
from model_wrappers.families.qwen2_vl import Qwen2VL
from model_wrappers.shape import Tiling
from tests.tiny import LLAVA_TEMPLATE, LLAVA_TOKENS, byte_tokenizer, tiny_llava_onevision, tiny_qwen2_vl

Region = tuple[float, float, float, float]
"""top, bottom, left, right, as fractions."""


@pytest.fixture
def llava() -> LLaVAOneVision:
    return local(LLaVAOneVision(tiny_llava_onevision(), device="cpu"))


@pytest.fixture
def qwen() -> Qwen2VL:
    return local(Qwen2VL(tiny_qwen2_vl(), device="cpu", min_pixels=84 * 84, max_pixels=140 * 140))


def local(model: Any) -> Any:
    """Takes away all that mixes patches, and what depends on their places."""
    core = model.model.model
    tower = core.visual.blocks if hasattr(core, "visual") else core.vision_tower
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if any(part in name for part in (".out_proj.", ".fc2.", "attn.proj.")):
                parameter.zero_()
    return model


def painted(height: int, width: int, region: Region) -> tuple[Image.Image, Image.Image]:
    """A grey picture, and the same with one region in red."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    other = pixels.copy()
    top, bottom, left, right = region
    other[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = (255, 0, 0)
    return Image.fromarray(pixels), Image.fromarray(other)


def overlap(shown: torch.Tensor, region: Region) -> torch.Tensor:
    """[N]: the share of each token's own area that lies in the region; 0 where it shows no place."""
    top, bottom, left, right = region
    height = (shown[:, 3].clamp(max=bottom) - shown[:, 2].clamp(min=top)).clamp(min=0)
    width = (shown[:, 5].clamp(max=right) - shown[:, 4].clamp(min=left)).clamp(min=0)
    area = (shown[:, 3] - shown[:, 2]) * (shown[:, 5] - shown[:, 4])
    return (height * width / area).nan_to_num(0.0)


def moved(model: Any, one: Any, other: Any) -> torch.Tensor:
    """[N]: which visual tokens differ between two messages."""
    prompts = [model.prepare(message) for message in (one, other)]
    rows = [prompt.inputs_embeds[prompt.visual] for prompt in prompts]
    return (rows[0] - rows[1]).abs().amax(dim=-1) > 1e-4


def agree(shown: torch.Tensor, changed: torch.Tensor, region: Region, margin: float) -> None:
    """Whatever lies mostly in the region has changed; whatever lies clear of it has not."""
    top, bottom, left, right = region
    wider = (top - margin, bottom + margin, left - margin, right + margin)
    inside, clear = overlap(shown, region) > 0.5, overlap(shown, wider) == 0
    assert bool(changed[inside].all()) and not bool(changed[clear].any())
    assert bool(inside.any()) and bool(clear.any())


REGIONS = ((0.0, 0.45, 0.0, 0.45), (0.6, 1.0, 0.0, 0.5), (0.1, 0.5, 0.55, 1.0), (0.5, 1.0, 0.5, 1.0))


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "tiles"),
    [(42, 42, 9 + 3), (84, 84, 36 + 6), (100, 60, 0), (60, 200, 0), (200, 90, 0), (90, 130, 0), (37, 83, 0)],
)
def test_image_tokens(llava: LLaVAOneVision, tmp_path: Path, height: int, width: int, tiles: int, shrunk: bool) -> None:
    if shrunk:  # above one tile's worth of tokens the grid of the tiles is made smaller
        llava.model.config.vision_aspect_ratio = llava.processor.vision_aspect_ratio = "anyres_max_1"
    for number, region in enumerate(REGIONS):
        messages = []
        for name, image in zip(("plain", "painted"), painted(height, width, region), strict=True):
            image.save(tmp_path / f"{name}{number}.png")
            messages.append([{"type": "image", "value": str(tmp_path / f"{name}{number}.png")}])
        shown = llava.decode(messages[0]).extents
        assert shown is not None
        places = ~shown.isnan().any(dim=-1)
        rows = int((~places).sum())
        if tiles and not shrunk:
            assert len(shown) == 9 + tiles
        assert rows and not places[-1] and bool((shown[places][:, :2] == torch.tensor([0.0, 1.0])).all())
        # Resizing smears the edge of the paint over a few pixels, and shrinking the grid mixes neighbours.
        agree(shown, moved(llava, *messages), region, 0.25 if shrunk else 0.1)


def test_the_tiles_cover_the_picture_once(llava: LLaVAOneVision, tmp_path: Path) -> None:
    """What is padded was taken off: tokens of the tiles lie side by side from edge to edge."""
    for height, width in ((84, 84), (60, 200), (200, 90), (37, 83)):
        painted(height, width, REGIONS[0])[0].save(tmp_path / "a.png")
        shown = llava.decode([{"type": "image", "value": str(tmp_path / "a.png")}]).extents
        assert shown is not None
        tiles = shown[9:]
        tiles = tiles[~tiles.isnan().any(dim=-1)]
        area = ((tiles[:, 3] - tiles[:, 2]) * (tiles[:, 5] - tiles[:, 4])).sum()
        assert abs(float(area) - 1.0) < 0.02
        assert float(tiles[:, 2].min()) < 0.01 and float(tiles[:, 3].max()) > 0.99
        assert float(tiles[:, 4].min()) < 0.01 and float(tiles[:, 5].max()) > 0.99


def test_several_images_are_stretches_of_time(llava: LLaVAOneVision, tmp_path: Path) -> None:
    region = REGIONS[0]
    plain, other = painted(60, 80, region)
    plain.save(tmp_path / "plain.png")
    other.save(tmp_path / "painted.png")
    images = [{"type": "image", "value": str(tmp_path / f"{name}.png")} for name in ("plain", "painted")]
    one, two = [images[0]] * 4, [images[0], images[0], images[1], images[0]]
    shown, changed = llava.decode(one).extents, moved(llava, one, two)
    assert shown is not None
    third = (shown[:, 0] == 0.5) & (shown[:, 1] == 0.75)
    assert not bool(changed[~third].any())
    agree(shown[third], changed[third], region, 0.1)


@pytest.mark.parametrize("frame", [0, 2, 4])
def test_video_tokens(llava: LLaVAOneVision, frame: int) -> None:
    region = (0.0, 0.3, 0.7, 1.0)
    plain, other = (np.asarray(image) for image in painted(60, 80, region))
    features, shown = [], torch.empty(0)
    for frames in ([plain] * 5, [other if index == frame else plain for index in range(5)]):
        inputs = llava.processor(text="<video>", videos=[np.stack(frames)], return_tensors="pt")
        shown = llava._extents(inputs, 0)
        features.append(llava.model.model.get_video_features(inputs["pixel_values_videos"]).pooler_output[0])
    changed = (features[0] - features[1]).abs().amax(dim=-1) > 1e-4
    assert changed.nonzero().squeeze(1).tolist() == [frame * 4 + 1]
    token = torch.tensor([frame / 5, (frame + 1) / 5, 0.0, 0.5, 0.5, 1.0])
    torch.testing.assert_close(shown[frame * 4 + 1], token)
    assert len(shown) == 5 * 4 + 1 and bool(shown[-1].isnan().all()) and not bool(shown[:-1].isnan().any())


@pytest.mark.parametrize(("height", "width"), [(84, 84), (60, 200), (130, 100)])
def test_qwen2_vl_image_tokens(qwen: Qwen2VL, tmp_path: Path, height: int, width: int) -> None:
    for number, region in enumerate(REGIONS):
        images = []
        for name, image in zip(("plain", "painted"), painted(height, width, region), strict=True):
            image.save(tmp_path / f"{name}{number}.png")
            images.append({"type": "image", "value": str(tmp_path / f"{name}{number}.png")})
        one, two = [images[0], images[0]], [images[0], images[1]]
        shown, changed = qwen.decode(one).extents, moved(qwen, one, two)
        assert shown is not None
        second = shown[:, 0] == 0.5
        assert int(second.sum()) * 2 == len(shown) and not bool(changed[~second].any())
        assert bool((shown[second][:, 1] == 1.0).all())
        agree(shown[second], changed[second], region, 0.1)


@pytest.mark.parametrize("frame", [0, 3, 5])
def test_qwen2_vl_video_tokens(qwen: Qwen2VL, frame: int) -> None:
    """Two frames are one patch of time."""
    region = (0.0, 0.5, 0.67, 1.0)
    plain, other = (torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in painted(56, 84, region))
    features, shown = [], torch.empty(0)
    for frames in ([plain] * 6, [other if index == frame else plain for index in range(6)]):
        inputs = qwen.processor(text="<|video_pad|>", videos=[torch.stack(frames)], return_tensors="pt")
        shown = qwen._extents(inputs)
        encoder = qwen.model.model.get_video_features
        features.append(torch.cat(encoder(inputs["pixel_values_videos"], inputs["video_grid_thw"]).pooler_output))
    changed = (features[0] - features[1]).abs().amax(dim=-1) > 1e-4
    time = frame // 2
    assert changed.nonzero().squeeze(1).tolist() == [time * 6 + 2] and len(shown) == 18
    torch.testing.assert_close(shown[time * 6 + 2], torch.tensor([time / 3, (time + 1) / 3, 0, 0.5, 2 / 3, 1]))


@settings(max_examples=150, deadline=None)
@given(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), st.integers(1, 27), st.sampled_from([1, 4, 9]))
def test_tokens_are_counted_without_torch_as_they_are_placed(size: tuple[int, int], side: int, most: int) -> None:
    """At full size, and at every smaller one that `downsample` may choose."""
    canvases = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    tiling = Tiling(tuple((height, width) for height, width in canvases), 384, most)
    shown = extents.anyres(size, (0.0, 1.0), pinpoints=canvases, tile=384, side=side, most=most)
    assert tiling.tokens(size, side) == len(shown)
    assert tiling.pictures(size) == image_size_to_num_patches(list(size), canvases, 384)


def test_as_many_as_the_real_processor_counts() -> None:
    """At the size of the published checkpoints, where large pictures are shrunk to nine tiles' worth."""
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(),
        tokenizer=byte_tokenizer(LLAVA_TOKENS, LLAVA_TEMPLATE),
        video_processor=LlavaOnevisionVideoProcessor(),
        num_image_tokens=27 * 27,
        vision_feature_select_strategy="full",
    )
    canvases = processor.image_processor.image_grid_pinpoints
    sizes = [tuple(size) for size in np.random.default_rng(0).integers(20, 3000, (60, 2)).tolist()]
    found = [
        extents.anyres(size, (0.0, 1.0), pinpoints=canvases, tile=384, side=27, most=9)
        for size in [*sizes, (384, 384), (336, 504), (1, 1000)]
    ]
    assert [len(one) for one in found] == [
        processor._get_number_of_features(*size, 384, 384) for size in [*sizes, (384, 384), (336, 504), (1, 1000)]
    ]
    assert len(extents.video(8, 14, 14)) + len(extents.NOWHERE) == 1569  # the paper's count
    for one in found:
        tiles = one[27 * 27 :]
        tiles = tiles[~tiles.isnan().any(dim=-1)]
        area = float(((tiles[:, 3] - tiles[:, 2]) * (tiles[:, 5] - tiles[:, 4])).sum())
        fewest = min(len(tiles[:, 2].unique()), len(tiles[:, 4].unique()))
        assert (
            1 - 1 / fewest < area < 1.001
        )  # Hugging Face's rounding may drop less than a row or column of the picture
