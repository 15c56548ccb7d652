"""FastVID against its literal reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_wrappers import budget, encode
from model_wrappers.methods.fastvid import FastVID, _retained
from tests.model_wrappers import merging_reference as reference
from tests.model_wrappers.merging_prompts import (
    LONG,
    check,
    long_frames,
    newline_by_hand,
    scenic,
    shown,
    videos_by_hand,
)
from tests.model_wrappers.table import Family


@pytest.mark.parametrize("keep", [0.9, 0.6, 0.3])
def test_fastvid(model: Any, ask: Any, family: Family, keep: float) -> None:
    (prompt,) = encode(model, ask(LONG))
    frames = long_frames(family, prompt.n_visual)
    attention = prompt.vision.attention
    for seed, jump in ((0, 12), (1, 4)):
        slow = scenic(prompt, frames, seed, jump)
        features = list(slow.inputs_embeds[slow.visual_rows])
        share = (budget(keep, slow.n_visual), len(frames) * len(frames[0]))
        expected = reference.fastvid(features, frames, attention.tolist(), share) | newline_by_hand(features, [frames])
        places = check(model, slow, FastVID(), keep, expected)
        retained = max(1, len(frames[0]) * share[0] // share[1])
        assert len(places) <= len(frames) * retained + (family.name == "llava_onevision")


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
def test_fastvid_takes_images_beside_a_video_for_videos_of_one_frame(
    model: Any, ask: Any, family: Family, keep: float
) -> None:
    found = videos_by_hand(family, "mixed")
    for seed, jump in ((0, 4), (1, 1)):
        (prompt,) = encode(model, ask(shown("mixed", seed)))
        attention = prompt.vision.attention.nan_to_num(-1.0).tolist()
        slow = scenic(prompt, found[-1], seed, jump)
        features = list(slow.inputs_embeds[slow.visual_rows])
        share = (budget(keep, slow.n_visual), sum(len(frame) for video in found for frame in video))
        expected = newline_by_hand(features, found)
        for frames in found:
            expected |= reference.fastvid(features, frames, attention, share)
        check(model, slow, FastVID(), keep, expected)


@pytest.mark.parametrize(("keep", "left"), [(0.5, 98), (0.25, 49), (0.1, 19)])
@pytest.mark.parametrize("frames", [8, 32])
@pytest.mark.parametrize("newlines", [0, 1])
def test_fastvid_keeps_the_official_number_of_a_frame(keep: float, left: int, frames: int, newlines: int) -> None:
    """int(196 * keep), also where LLaVA-OneVision's newline makes the prompt longer than its frames."""
    assert _retained(196, budget(keep, 196 * frames + newlines), 196 * frames) == left


def test_fastvids_segments_by_hand() -> None:
    """Twelve frames, the seven lowest cosines and whatever is below 0.9."""
    angle = torch.tensor([0, 0.01, 0.03, 0.06, 1.06, 1.16, 1.27, 1.39, 1.52, 1.67, 1.83, 1.835])
    frames = torch.stack((angle.cos(), angle.sin()), dim=1)
    assert FastVID().lengths(frames) == [4, 1, 1, 1, 1, 1, 1, 2]
    assert FastVID(c=1).lengths(frames) == [4, 8]
    assert FastVID(c=1).lengths(frames[:1]) == [1]
