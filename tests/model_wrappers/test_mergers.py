"""Mergers against the literal references, and what they look at in the vision encoder against an eager run of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from model_wrappers import UserError, budget, compress, encode, generate
from model_wrappers.methods.base import LayerPruner
from model_wrappers.methods.fastvid import FastVID, _retained
from model_wrappers.methods.frames import apportion, videos
from model_wrappers.methods.prunevid import PruneVID, contiguous, shares
from model_wrappers.methods.visionzip import VisionZip
from model_wrappers.registry import method
from model_wrappers.selection import choose
from tests.model_wrappers import merging_reference as reference
from tests.model_wrappers.conftest import IMAGE, MIXED, PROMPTS, TEXT, VIDEO, answer, clip, picture
from tests.model_wrappers.table import LAYERS, Family, only


def tower_of_qwen2_vl(model: Any, inputs: Any, kind: str) -> Tensor:
    """[patches, 1 + head_dim]: attention received and key of each patch, frame by frame and head by head."""
    core, kept = model.model, {}
    block = core.visual.blocks[-2]
    handles = [
        block.attn.qkv.register_forward_hook(lambda module, args, output: kept.update(qkv=output)),
        block.register_forward_pre_hook(
            lambda module, args, kwargs: kept.update(rope=kwargs["position_embeddings"]), with_kwargs=True
        ),
    ]
    pixels, grid = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
    with torch.no_grad():
        core.visual(inputs[pixels], grid_thw=inputs[grid])
    for handle in handles:
        handle.remove()
    heads = core.visual.config.num_heads
    query, plain, _ = kept["qkv"].unflatten(1, (3, heads, -1)).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, plain, *kept["rope"])
    found, start = [], 0
    for time, height, width in inputs[grid].tolist():
        for _ in range(time):
            rows = slice(start, start + height * width)
            received = torch.zeros(height * width)
            for head in range(heads):
                scores = query[rows, head] @ key[rows, head].T / query.shape[-1] ** 0.5
                received += scores.softmax(dim=-1).mean(dim=0) / heads
            found.append(torch.cat((received[:, None], plain[rows].mean(dim=1)), dim=1))
            start += height * width
    return torch.cat(found)


def tower_of_siglip(model: Any, pixels: Tensor) -> Tensor:
    """[tiles, patches, 1 + head_dim]."""
    tower, kept = model.model.vision_tower, {}
    tower.set_attn_implementation("eager")
    attention = getattr(tower, "vision_model", tower).encoder.layers[-2].self_attn
    handles = [
        attention.k_proj.register_forward_hook(lambda module, args, output: kept.update(keys=output)),
        attention.register_forward_hook(lambda module, args, output: kept.update(weights=output[1])),
    ]
    with torch.no_grad():
        tower(pixels)
    for handle in handles:
        handle.remove()
    tower.set_attn_implementation("sdpa")
    keys = kept["keys"].unflatten(2, (attention.num_heads, -1)).mean(dim=2)
    return torch.cat((kept["weights"].mean(dim=(1, 2))[..., None], keys), dim=-1)


def tower_by_token(model: Any, inputs: Any, family: Family, kind: str) -> Tensor:
    """[N_v, 1 + head_dim] of a prompt like IMAGE, VIDEO or MIXED; a newline has NaN."""
    if kind == "mixed" and family.name != "vila":
        return torch.cat([tower_by_token(model, inputs, family, each) for each in ("image", "video")])
    if family.name == "qwen2_vl":
        patches = tower_of_qwen2_vl(model, inputs, kind)
        return torch.stack([patches[start : start + 4].mean(dim=0) for start in range(0, len(patches), 4)])
    if family.name == "vila":
        found = []
        for tile in tower_of_siglip(model, inputs["pixel_values"]):
            for token in range(9):
                column, row = divmod(token, 3) if model.config.token_order == "column" else divmod(token, 3)[::-1]
                inside = [
                    5 * y + x for y in (2 * row, 2 * row + 1) for x in (2 * column, 2 * column + 1) if y < 5 and x < 5
                ]
                found.append(tile[inside].mean(dim=0))
        return torch.stack(found)
    if kind == "video":
        tiles = tower_of_siglip(model, inputs["pixel_values_videos"][0])
        grid = tiles.unflatten(1, (3, 3)).permute(0, 3, 1, 2)
        pooled = torch.nn.functional.interpolate(grid, size=(2, 2), mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)
        return torch.cat((pooled, torch.full_like(pooled[:1], torch.nan)))
    found = []
    for pixels in inputs["pixel_values"]:
        tiles = tower_of_siglip(model, pixels).unflatten(1, (3, 3))
        found += list(tiles[0].flatten(0, 1))
        for y in range(1, 5):  # the canvas of 2 x 2 tiles loses the padded first and last of its 6 rows
            found += [tiles[1 + 2 * (y // 3) + x // 3, y % 3, x % 3] for x in range(6)]
            found.append(torch.full_like(found[0], torch.nan))
    return torch.stack(found)


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


@pytest.mark.parametrize("media", ["image", "video", "mixed"])
def test_what_the_encoder_knew_equals_an_eager_run(model: Any, ask: Any, family: Family, media: str) -> None:
    inputs = ask(PROMPTS[media])
    expected = tower_by_token(model, inputs, family, media)
    (prompt,) = encode(model, inputs)
    found = torch.cat((prompt.vision.attention[:, None], prompt.vision.keys), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, equal_nan=True)
    both = encode(model, ask(MIXED, TEXT, PROMPTS[media]))[2]
    torch.testing.assert_close(both.vision.attention, expected[:, 0], atol=1e-5, rtol=1e-4, equal_nan=True)
    assert [video.tolist() for video in videos(model, prompt)] == videos_by_hand(family, media)


def check(model: Any, prompt: Any, made: Any, keep: float, expected: reference.Left) -> list[int]:
    choice = choose(model, prompt, made, keep)
    places = sorted(expected)
    assert choice.kept.tolist() == places and choice.merged is not None
    torch.testing.assert_close(choice.merged, torch.stack([expected[place] for place in places]), atol=2e-5, rtol=1e-4)
    return places


def shown(media: str, seed: int) -> list[Any]:
    """A prompt of the sizes of IMAGE, VIDEO or MIXED."""
    if media == "mixed":
        return [picture(3, 4, seed), "first,", picture(2, 3, 9 + seed), "then", clip(6, 2, 2, seed), "which?"]
    return [picture(4, 5, seed), "?"] if media == "image" else ["Look:", clip(6, 3, 3, seed), "?"]


@pytest.mark.parametrize("media", ["image", "video", "mixed"])
@pytest.mark.parametrize("keep", [0.9, 0.4, 0.15])
def test_visionzip(model: Any, ask: Any, family: Family, media: str, keep: float) -> None:
    for seed in (0, 1):
        inputs = ask(shown(media, seed))
        (prompt,) = encode(model, inputs)
        tower = tower_by_token(model, inputs, family, media)
        patch = ~tower[:, 0].isnan()
        frames = [[token for token in frame if patch[token]] for frame in frames_by_hand(family, media)]
        features = list(prompt.inputs_embeds[prompt.visual_rows])
        k = budget(keep, prompt.n_visual)
        expected = reference.visionzip(features, frames, tower[:, 0].tolist(), list(tower[:, 1:]), k)
        assert len(check(model, prompt, VisionZip(), keep, expected)) == k


def test_visionzips_counts() -> None:
    """The paper's three settings, of 576 tokens: 54 + 10, 108 + 20, 162 + 30."""
    generator = torch.Generator().manual_seed(0)
    attention, keys = torch.rand(576, generator=generator), torch.rand(576, 8, generator=generator)
    found = [[len(part) for part in VisionZip()._split(attention, keys, k)[:2]] for k in (64, 128, 192)]
    assert found == [[54, 10], [108, 20], [162, 30]]


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


LONG = ["Look:", clip(24, 3, 3, 4), "what happens?"]


def long_frames(family: Family, visual: int) -> list[list[int]]:
    size = {"qwen2_vl": 9, "llava_onevision": 4, "vila": 9}[family.name]
    return [list(range(start, start + size)) for start in range(0, visual - visual % size, size)]


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


@pytest.mark.parametrize("name", ["prunevid", "fastvid"])
def test_a_video_method_on_images_says_so(model: Any, ask: Any, name: str) -> None:
    with pytest.raises(UserError, match="defined for video prompts"), compress(model, name, keep=0.5):
        answer(model, ask(IMAGE))
    with compress(model, name, keep=0.5):
        answer(model, ask(TEXT))
    assert method(name).media == {"video"} and method("visionzip").media == {"image", "video"}


@only("qwen2_vl", "llava_onevision")
def test_beams_and_several_answers(model: Any, ask: Any) -> None:
    """generate() repeats each row of the batch behind the vision encoder."""
    inputs = ask(VIDEO, MIXED)
    with compress(model, "visionzip", keep=0.4) as compression:
        answer(model, inputs)
        alone = [record.kept.tolist() for record in compression.last]
        model.generate(**inputs, max_new_tokens=2, do_sample=True, num_return_sequences=2)
        assert [record.kept.tolist() for record in compression.last] == [alone[0], alone[0], alone[1], alone[1]]


def test_the_encoder_is_left_as_it_was(model: Any, ask: Any) -> None:
    before = dict(vars(model.model))
    inputs = ask(MIXED)
    plain = encode(model, inputs)[0].inputs_embeds
    with compress(model, "visionzip", keep=0.4):
        model.generate(**inputs, max_new_tokens=1)
    assert torch.equal(encode(model, inputs)[0].inputs_embeds, plain)
    assert set(vars(model.model)) == set(before)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("visionzip", {"contextual": 1.0}),
        ("prunevid", {"temporal_segment_ratio": 0.0}),
        ("prunevid", {"least": 0}),
        ("prunevid", {"alpha": 0.0}),
        ("prunevid", {"alpha": 1.2}),
        ("fastvid", {"p": 0}),
        ("fastvid", {"beta": 1.5}),
    ],
)
def test_fields_that_cannot_be(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{name}: {next(iter(fields))}="):
        method(name, **fields)


@dataclass(frozen=True)
class VideoPruner(LayerPruner):
    """Cuts between layers, and is defined for videos only."""

    media: ClassVar[frozenset[str]] = frozenset({"video"})

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        return {1: keep}

    def score(self, layer: Any, hidden: Any, position_embeddings: Any, visual: Any) -> Tensor:
        return torch.arange(int(visual.sum())).float()


def test_a_layer_pruner_of_videos_says_so_too(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(IMAGE))
    with pytest.raises(UserError, match="defined for video prompts"):
        generate(model, prompt, VideoPruner(), 0.5, max_new_tokens=1)
    (prompt,) = encode(model, ask(VIDEO))
    _, record = generate(model, prompt, VideoPruner(), 0.5, max_new_tokens=1)
    assert len(record.kept) == budget(0.5, prompt.n_visual)


def test_each_keep_is_charged_for_what_the_encoder_knew(model: Any, ask: Any) -> None:
    (prompt,) = encode(model, ask(VIDEO))
    records = [generate(model, prompt, method("visionzip"), keep, max_new_tokens=1)[1] for keep in (0.5, 0.25)]
    assert all(record.scoring_seconds >= prompt.cache["vision_seconds"] > 0 for record in records)
