"""PruneVid against its literal reference."""

from __future__ import annotations

import itertools
import math
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from model_wrappers import budget, encode, generate
from model_wrappers.methods.frames import apportion
from model_wrappers.methods.prunevid import PruneVID, contiguous, shares
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
from tests.model_wrappers.table import LAYERS, Family


@pytest.mark.parametrize("least", [1, 3])
def test_prunevid(model: Any, ask: Any, family: Family, least: int) -> None:
    (prompt,) = encode(model, ask(LONG))
    frames = long_frames(family, prompt.n_visual)
    for seed, jump in ((0, 12), (1, 4), (2, 1)):
        slow = scenic(prompt, frames, seed, jump)
        made = PruneVID(least=least, alpha=1.0)
        features = slow.inputs_embeds[slow.visual_rows]
        scenes = made.scene_lengths(torch.stack([features[frame].mean(dim=0) for frame in frames]))
        assert scenes == scenes_by_hand(features, frames)
        for share in (*(part / len(frames[0]) for part in range(1, len(frames[0]))), 0.99):
            groups, newline = merged_by_hand(slow, [frames], share, least)
            expected = {**newline, **{token: vector for group in groups for token, vector in group.items()}}
            check(model, slow, made, share, expected)


@pytest.mark.parametrize("least", [1, 14])
def test_prunevid_takes_images_beside_a_video_for_dynamic(model: Any, ask: Any, family: Family, least: int) -> None:
    """Each a group of its own, clustered to the same share as those of the video."""
    found = videos_by_hand(family, "mixed")
    for seed, jump in ((0, 3), (1, 1)):
        (prompt,) = encode(model, ask(shown("mixed", seed)))
        slow = scenic(prompt, found[-1], seed, jump)
        for share in (0.1, 0.4, 0.8):
            groups, newline = merged_by_hand(slow, found, share, least)
            expected = {**newline, **{token: vector for group in groups for token, vector in group.items()}}
            check(model, slow, PruneVID(least=least, alpha=1.0), share, expected)


def merged_by_hand(
    prompt: Any, found: list[list[list[int]]], share: float, least: int
) -> tuple[list[reference.Left], reference.Left]:
    """What PruneVid's merge leaves of each group where a share of all tokens may be left, and what is in no group."""
    features = list(prompt.inputs_embeds[prompt.visual_rows])
    newline, groups = newline_by_hand(features, found), []
    for frames in found:
        groups += reference.prunevid_groups(features, frames, scenes_by_hand(torch.stack(features), frames))
    k = min(len(features), math.floor(share * len(features) + 0.5))
    counts = reference.fitting([len(group) for group in groups], k - len(newline), least, lowest=1)
    return reference.prunevid(groups, counts), newline


@pytest.mark.parametrize(("keep", "least"), [(0.6, 2), (0.25, 1), (0.1, 2), (0.1, 14), (0.005, 2)])
def test_prunevids_second_stage(model: Any, ask: Any, family: Family, keep: float, least: int) -> None:
    """Which tokens each group keeps, by what enters the second layer, and that the caches of all layers hold these."""
    (prompt,) = encode(model, ask(LONG))
    frames, layer = long_frames(family, prompt.n_visual), model.model.language_model.layers[1]
    for seed, jump in ((0, 12), (1, 4), (2, 1)):
        slow, made = scenic(prompt, frames, seed, jump), PruneVID(least=least)
        k, seen = budget(keep, slow.n_visual), []
        handle = layer.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0][0].clone()))
        _, record = generate(model, slow, made, keep, max_new_tokens=1)
        handle.remove()
        groups, newline = merged_by_hand(slow, [frames], k / made.alpha / slow.n_visual, least)
        merged = sorted([*newline, *(token for group in groups for token in group)])
        text = [row for row, visual in enumerate(slow.visual.tolist()) if not visual]
        rows = sorted([*text, *slow.visual_rows[merged].tolist()])
        entered = seen[0]
        assert len(entered) == len(rows)
        behind = [place for place, row in enumerate(rows) if row > int(slow.visual_rows[-1])]
        looks = reference.prunevid_looks(layer, entered, behind)
        score = {token: looks[rows.index(int(slow.visual_rows[token]))] for token in merged}
        kept = list(newline)
        if len(merged) <= k:
            kept = merged
        else:
            counts = reference.fitting([len(group) for group in groups], k - len(newline))
            for group, count in zip(groups, counts, strict=True):
                kept += sorted(group, key=lambda token: (-score[token], token))[:count]
        kept = kept or [max(merged, key=lambda token: (score[token], -token))]
        assert record.kept.tolist() == sorted(kept)
        assert record.kv_visual == [len(kept)] * LAYERS
        assert record.by_layer == [len(merged)] * 2 + [len(kept)] * (LAYERS - 2)


def scenes_by_hand(features: Tensor, frames: list[list[int]]) -> list[int]:
    pooled = [reference.mean(list(features[frame])) for frame in frames]
    label = [0] * len(frames)
    for number, members in enumerate(reference.clusters(pooled, max(1, len(frames) // 4)).values()):
        for member in members:
            label[member] = number
    label = reference.contiguous(label)
    return [len(list(run)) for _, run in itertools.groupby(label)]


def test_contiguous_by_hand() -> None:
    """As the official refine_clusters: the longest runs stay, singles and shorter runs join the longer neighbour."""
    by_hand = {
        (0, 0, 1, 1, 1): [0, 0, 1, 1, 1],
        (0, 0, 1, 0, 1, 1): [0, 0, 0, 0, 1, 1],
        (0, 0, 0, 1, 2, 2): [0, 0, 0, 0, 2, 2],
        (0, 1, 2, 3): [0, 0, 0, 0],
        (1, 1, 0, 0, 0, 1, 2, 2, 2, 2): [1, 1, 0, 0, 0, 2, 2, 2, 2, 2],
        (5, 5, 3, 5, 5): [5, 5, 5, 5, 5],
    }
    for found in (contiguous, reference.contiguous):
        assert {labels: found(list(labels)) for labels in by_hand} == by_hand
    for labels in itertools.product(range(3), repeat=7):
        assert contiguous(list(labels)) == reference.contiguous(list(labels))


def test_prunevids_counts_by_hand() -> None:
    assert shares([100, 40, 10], 75, 14, at_least=1) == [47, 18, 10]
    assert shares([100, 40, 10], 150, 14, at_least=1) == [100, 40, 10]
    assert shares([100, 40, 10], 3, 14, at_least=1) == [1, 1, 10], "fewer cannot be left"
    assert shares([14, 3], 2, 14, at_least=1) == [14, 3]
    assert shares([100, 40, 2], 56) == [40, 16, 0] and shares([2, 2, 2], 2) == [0, 0, 0]


def test_prunevids_official_setting() -> None:
    """16 frames of 144 tokens, 32 layers: 72 of a frame behind the merge, int(0.4 * 72) behind layer 10."""
    made, k = PruneVID(), budget(0.2, 16 * 144)
    assert made.counts(32, 0.2, 16 * 144) == [1153] * 11 + [k] * 21 and made.held(32, 0.2, 16 * 144) == [k] * 32
    assert shares([144] * 16, 1153, made.least, at_least=1) == [72] * 16 and shares([72] * 16, k) == [28] * 16
    assert round(fmean(made.counts(32, 0.2, 10**6)) / 10**6, 3) == 0.303
    assert [list(made.plan(layers, 0.2)) for layers in (28, 24, 6, 2)] == [[10], [8], [2], [1]]
    assert made.counts(6, 0.5, 100) == [100] * 2 + [50] * 4, "there is no more to leave"
    assert PruneVID(alpha=1.0).counts(6, 0.5, 100) == [50] * 6


def test_apportioning_by_hand() -> None:
    assert apportion(10, [4, 4, 4]) == [3, 4, 3] and apportion(1, [9, 9]) == [1, 0] and apportion(0, [3]) == [0]
    assert all(sum(apportion(k, [7, 20, 1])) == k for k in range(29))
