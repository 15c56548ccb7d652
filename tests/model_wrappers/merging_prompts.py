"""Prompts for the tests of mergers: their frames by hand, and features that a slow video has."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from model_wrappers.selection import choose
from tests.model_wrappers import merging_reference as reference
from tests.model_wrappers.conftest import clip, picture
from tests.model_wrappers.table import Family

LONG = ["Look:", clip(24, 3, 3, 4), "what happens?"]


def long_frames(family: Family, visual: int) -> list[list[int]]:
    size = {"qwen2_vl": 9, "llava_onevision": 4, "vila": 9}[family.name]
    return [list(range(start, start + size)) for start in range(0, visual - visual % size, size)]


def frames_by_hand(family: Family, media: str) -> list[list[int]]:
    return [frame for video in videos_by_hand(family, media) for frame in video]


def videos_by_hand(family: Family, media: str) -> list[list[list[int]]]:
    """Of each video its frames; an image is a video of one, but VILA's images together are one video."""
    sizes = {
        "image": {"qwen2_vl": [[20]], "llava_onevision": [[37]], "vila": [[9]]},
        "video": {"qwen2_vl": [[9] * 3], "llava_onevision": [[4] * 6], "vila": [[9] * 6]},
        "mixed": {
            "qwen2_vl": [[12], [6], [4] * 3],
            "llava_onevision": [[37], [37], [4] * 6],
            "vila": [[9] * 8],
        },
    }
    start, found = 0, []
    for video in sizes[media][family.name]:
        found.append(
            [list(range(start + sum(video[:place]), start + sum(video[: place + 1]))) for place in range(len(video))]
        )
        start += sum(video)
    return found


def shown(media: str, seed: int) -> list[Any]:
    """A prompt of the sizes of IMAGE, VIDEO or MIXED."""
    if media == "mixed":
        return [picture(3, 4, seed), "first,", picture(2, 3, 9 + seed), "then", clip(6, 2, 2, seed), "which?"]
    return [picture(4, 5, seed), "?"] if media == "image" else ["Look:", clip(6, 3, 3, seed), "?"]


def scenic(prompt: Any, frames: list[list[int]], seed: int, jump: int) -> Any:
    """The prompt with features that a slow video has: every second place stays nearly as it is for `jump` frames."""
    generator = torch.Generator().manual_seed(seed)
    embeds = prompt.inputs_embeds.clone()
    for number, frame in enumerate(frames):
        if number % jump == 0:
            still = torch.randn(len(frame), embeds.shape[1], generator=generator)
        noise = torch.randn(still.shape, generator=generator)
        moving = (torch.arange(len(frame)) % 2).float()[:, None]
        embeds[prompt.visual_rows[frame]] = still + noise * (0.05 + 0.6 * moving)
    return dataclasses.replace(prompt, inputs_embeds=embeds, cache={})


def newline_by_hand(features: list[Tensor], found: list[list[list[int]]]) -> reference.Left:
    """LLaVA-OneVision's newline behind a video, which is in no frame."""
    inside = {token for frames in found for frame in frames for token in frame}
    return {token: features[token] for token in range(len(features)) if token not in inside}


def check(model: Any, prompt: Any, made: Any, keep: float, expected: reference.Left) -> list[int]:
    choice = choose(model, prompt, made, keep)
    places = sorted(expected)
    assert choice.kept.tolist() == places and choice.merged is not None
    torch.testing.assert_close(choice.merged, torch.stack([expected[place] for place in places]), atol=2e-5, rtol=1e-4)
    return places
