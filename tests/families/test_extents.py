"""Where a visual token looks, against what really moves it: paint a region of the input, see which features change.

The vision tower is made local first: each patch's feature is then of its own pixels alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model_wrappers.families.llava_onevision import LLaVAOneVision
from tests.tiny import tiny_llava_onevision

Region = tuple[float, float, float, float]
"""top, bottom, left, right, as fractions."""


@pytest.fixture
def llava() -> LLaVAOneVision:
    model = LLaVAOneVision(tiny_llava_onevision(), device="cpu")
    with torch.no_grad():
        for name, parameter in model.model.model.vision_tower.named_parameters():
            if ".out_proj." in name or ".fc2." in name:
                parameter.zero_()
    return model


def painted(height: int, width: int, region: Region) -> tuple[Image.Image, Image.Image]:
    """A grey picture, and the same with one region in red."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    other = pixels.copy()
    top, bottom, left, right = region
    other[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = (255, 0, 0)
    return Image.fromarray(pixels), Image.fromarray(other)


def overlap(extents: torch.Tensor, region: Region) -> torch.Tensor:
    """[N]: the share of each token's own area that lies in the region; 0 where it shows no place."""
    top, bottom, left, right = region
    height = (extents[:, 3].clamp(max=bottom) - extents[:, 2].clamp(min=top)).clamp(min=0)
    width = (extents[:, 5].clamp(max=right) - extents[:, 4].clamp(min=left)).clamp(min=0)
    area = (extents[:, 3] - extents[:, 2]) * (extents[:, 5] - extents[:, 4])
    return (height * width / area).nan_to_num(0.0)


def moved(model: LLaVAOneVision, one: Any, other: Any) -> torch.Tensor:
    """[N]: which visual tokens differ between two messages."""
    prompts = [model.prepare(message) for message in (one, other)]
    rows = [prompt.inputs_embeds[prompt.visual] for prompt in prompts]
    return (rows[0] - rows[1]).abs().amax(dim=-1) > 1e-4


def agree(extents: torch.Tensor, changed: torch.Tensor, region: Region, margin: float) -> None:
    """Whatever lies mostly in the region has changed; whatever lies clear of it has not."""
    top, bottom, left, right = region
    wider = (top - margin, bottom + margin, left - margin, right + margin)
    inside, clear = overlap(extents, region) > 0.5, overlap(extents, wider) == 0
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
        extents = llava.decode(messages[0]).extents
        assert extents is not None
        places = ~extents.isnan().any(dim=-1)
        rows = int((~places).sum())
        if tiles and not shrunk:
            assert len(extents) == 9 + tiles
        assert rows and not places[-1] and bool((extents[places][:, :2] == torch.tensor([0.0, 1.0])).all())
        # Resizing smears the edge of the paint over a few pixels, and shrinking the grid mixes neighbours.
        agree(extents, moved(llava, *messages), region, 0.25 if shrunk else 0.1)


def test_the_tiles_cover_the_picture_once(llava: LLaVAOneVision, tmp_path: Path) -> None:
    """What is padded was taken off: tokens of the tiles lie side by side from edge to edge."""
    for height, width in ((84, 84), (60, 200), (200, 90), (37, 83)):
        painted(height, width, REGIONS[0])[0].save(tmp_path / "a.png")
        extents = llava.decode([{"type": "image", "value": str(tmp_path / "a.png")}]).extents
        assert extents is not None
        tiles = extents[9:]
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
    extents, changed = llava.decode(one).extents, moved(llava, one, two)
    assert extents is not None
    third = (extents[:, 0] == 0.5) & (extents[:, 1] == 0.75)
    assert not bool(changed[~third].any())
    agree(extents[third], changed[third], region, 0.1)


@pytest.mark.parametrize("frame", [0, 2, 4])
def test_video_tokens(llava: LLaVAOneVision, frame: int) -> None:
    region = (0.0, 0.3, 0.7, 1.0)
    plain, other = (np.asarray(image) for image in painted(60, 80, region))
    features, extents = [], torch.empty(0)
    for frames in ([plain] * 5, [other if index == frame else plain for index in range(5)]):
        inputs = llava.processor(text="<video>", videos=[np.stack(frames)], return_tensors="pt")
        extents = llava._extents(inputs, 0)
        features.append(llava.model.model.get_video_features(inputs["pixel_values_videos"]).pooler_output[0])
    changed = (features[0] - features[1]).abs().amax(dim=-1) > 1e-4
    assert changed.nonzero().squeeze(1).tolist() == [frame * 4 + 1]
    token = torch.tensor([frame / 5, (frame + 1) / 5, 0.0, 0.5, 0.5, 1.0])
    torch.testing.assert_close(extents[frame * 4 + 1], token)
    assert len(extents) == 5 * 4 + 1 and bool(extents[-1].isnan().all()) and not bool(extents[:-1].isnan().any())
