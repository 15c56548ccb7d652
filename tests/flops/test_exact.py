"""The convention `exact` against torch's own FLOP counter: real forward passes of the three families."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, AutoProcessor

from harness.flops import Count, PromptSize, Shape, UnknownInput, count, read, shape_of
from harness.flops.shapes import of_size
from model_wrappers import encode, generate
from model_wrappers.inputs import Input, split
from model_wrappers.methods.base import Method
from model_wrappers.pictures import LlavaOneVisionPicture
from model_wrappers.prompt import VisualPrompt
from model_wrappers.registry import method
from model_wrappers.relevance.response import greedy_response
from model_wrappers.relevance.textbook import textbook_relevance
from model_wrappers.shape import Tower
from tests.model_wrappers.conftest import Asker, clip, picture
from tests.model_wrappers.table import FAMILIES, LAYERS
from tests.tiny import add_compressors

METHODS = [
    method("vanilla"),
    method("random"),
    method("uniform"),
    method("first_layer_attention"),
    method("cnn"),
    method("fastv"),
    method("fastv", layer=2),
    method("pyramiddrop"),
    method("divprune"),
    method("dart"),
    method("visionzip"),
]
# What their choosing costs depends on what is shown: these fields make any video the one that is counted.
OF_VIDEOS = [
    method("prunevid", tau=1.5, least=2),
    method("prunevid", tau=1.5, least=3),
    method("prunevid", tau=1.5, least=30),
    method("prunevid", tau=1.5, least=2, alpha=0.8),
    method("prunevid", tau=1.5, least=3, alpha=1.0),
    method("fastvid"),  # each frame is a segment: there are no more than 8
    method("fastvid", c=1, tau=-2.0),
    method("fastvid", c=1, tau=-2.0, d=0.9, p=2),
]
# torch has no formula for a matrix with a vector, nor for the distances of all pairs, counted as the product of as many
# numbers.
UNKNOWN = {
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * matrix[0] * matrix[1],
    torch.ops.aten._cdist_forward: lambda one, other, *_, **__: 2 * prod(one) * other[-2],
}
PROMPTS = {"image": [picture(4, 5), "What is it?"], "video": [clip(6, 3, 3), "What happens?"]}


def tables(counter: FlopCounterMode) -> int:
    """The tables of RoPE are worked out by products, which the convention leaves out."""
    found = counter.get_flop_counts()
    return sum(sum(products.values()) for name, products in found.items() if "rotary" in name.lower())


class Subject:
    """One tiny model, its shape and what it is asked."""

    def __init__(self, folder: Path, asker: Asker, model: Any) -> None:
        self.model, self.shape, self.family = model, read(folder), asker.family.name
        self.inputs = {name: asker(parts) for name, parts in PROMPTS.items()}

    def measured(
        self, media: str, chosen: Method, keep: float, alike: bool = False
    ) -> tuple[float, VisualPrompt, list[int]]:
        """Operations that torch counts from pixels to the first token, the prompt, and what the layers work on.

        alike: whether all text behind the visual tokens is made one word.
        """
        with FlopCounterMode(display=False, custom_mapping=UNKNOWN) as counter:
            (prompt,) = encode(self.model, self.inputs[media])
            if alike:
                prompt.inputs_embeds[prompt.instruction] = prompt.inputs_embeds[-1].clone()
            _, record = generate(self.model, prompt, chosen, keep, max_new_tokens=1)
        return counter.get_total_flops() - tables(counter), prompt, record.by_layer

    def counted(self, media: str, prompt: VisualPrompt, chosen: Method, keep: float, response: int = 1) -> Count:
        size = PromptSize(
            visual=prompt.n_visual,
            text=self.text(prompt),
            instruction=int(prompt.instruction.sum()),
            pictures=self.pictures(media),
            response=response,
            media=media,  # type: ignore[arg-type]
            size=self.size(media),
        )
        return count(self.shape, chosen, keep, size)

    def choosing(self, found: Count, truth: float, prompt: VisualPrompt, worked: list[int]) -> float:
        """Of `truth` what is neither the encoder's nor that of the decoder's work on what its layers work on."""
        assert found.exact.vision is not None
        return truth - found.exact.vision - self.shape.decoder.forward(worked, self.text(prompt)) - found.exact.head

    def text(self, prompt: VisualPrompt) -> int:
        return len(prompt.input_ids) - prompt.n_visual

    def size(self, media: str) -> tuple[int, int] | None:
        """Of an image that is laid out in tiles."""
        sizes = self.inputs[media].get("image_sizes")
        return None if sizes is None else tuple(sizes[0].tolist())

    def pictures(self, media: str) -> int:
        """What the vision encoder sees apart, by what the processor made: pairs of frames, tiles, frames, images."""
        inputs = self.inputs[media]
        grids = inputs.get(f"{media}_grid_thw")
        if grids is not None:
            return int(grids[:, 0].sum())
        name = "pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"
        return inputs[name].flatten(0, -4).shape[0]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    family = request.param
    folder = tmp_path_factory.mktemp("checkpoints") / f"tiny-{family.name}"
    family.build(folder, num_hidden_layers=LAYERS)
    add_compressors(folder)
    # Eager: torch's counter does not know the fused kernels of the CPU.
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    return Subject(folder, Asker(family, AutoProcessor.from_pretrained(folder)), model)


CASES = [(media, chosen) for media in PROMPTS for chosen in METHODS] + [("video", chosen) for chosen in OF_VIDEOS]


@pytest.mark.parametrize(("media", "chosen"), CASES, ids=str)
def test_every_matrix_product_is_counted(subject: Subject, media: str, chosen: Method) -> None:
    """All of a prefill, and of it the choosing alone, which is the smallest part."""
    keep = 1.0 if chosen.name == "vanilla" else 0.5
    truth, prompt, worked = subject.measured(media, chosen, keep)
    found = subject.counted(media, prompt, chosen, keep)
    if chosen not in OF_VIDEOS:  # these may leave fewer than the budget allows, by what is shown
        assert list(found.worked) == worked
        assert found.exact.total == pytest.approx(truth, rel=1e-3)
    # Newlines, which only this family's images have, are counted as if VisionZip merged them.
    newlines = chosen.name == "visionzip" and subject.family == "llava_onevision" and media == "image"
    assert found.exact.scoring == pytest.approx(
        subject.choosing(found, truth, prompt, worked), rel=5e-2 if newlines else 1e-3
    )


@pytest.mark.parametrize("media", ["image", "video"])
def test_sparsevlm_is_counted_where_all_text_rates(subject: Subject, media: str) -> None:
    """Where all of it is one word, none is more like the visual tokens than the mean: then all of it rates."""
    chosen, keep = method("sparsevlm"), 0.5
    truth, prompt, worked = subject.measured(media, chosen, keep, alike=True)
    found = subject.counted(media, prompt, chosen, keep)
    assert list(found.worked) == worked
    assert found.exact.total == pytest.approx(truth, rel=1e-3)
    assert found.exact.scoring == pytest.approx(subject.choosing(found, truth, prompt, worked), rel=1e-3)
    asked = subject.measured(media, chosen, keep)[0]
    assert asked < truth, "any other text costs less"


def test_a_merger_that_cuts_again_works_on_what_it_merged_and_holds_what_is_left(subject: Subject) -> None:
    """Keeps at which whole tokens of each frame are left twice: 6 of 9 and 3, and of LLaVA-OneVision's 4 2 and 1."""
    newline = subject.family == "llava_onevision"
    chosen = method("prunevid", tau=1.5, least=1, alpha=7 / 13 if newline else 0.5)
    keep = 7 / 25 if newline else 1 / 3
    truth, prompt, worked = subject.measured("video", chosen, keep)
    found = subject.counted("video", prompt, chosen, keep)
    assert list(found.worked) == worked and worked[0] > worked[-1] and found.held == (worked[-1],) * LAYERS
    assert found.kv_bytes == subject.shape.kv_bytes(found.held) < subject.shape.kv_bytes(worked)
    assert found.equivalent_tokens == sum(worked) / LAYERS
    assert found.exact.total == pytest.approx(truth, rel=1e-3)


def test_the_vision_part_is_the_encoders_and_the_projectors(subject: Subject) -> None:
    for media in PROMPTS:
        with FlopCounterMode(display=False) as counter:
            (prompt,) = encode(subject.model, subject.inputs[media])
        exact = subject.counted(media, prompt, method("vanilla"), 1.0).exact
        assert exact.vision == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_method_may_make_the_input_cheaper(subject: Subject) -> None:
    """Half of the frames at this keep; at another it does not say what the encoder is given."""
    from dataclasses import dataclass

    from model_wrappers.methods.base import Selector

    @dataclass(frozen=True)
    class Half(Selector):
        def encoded(self, tower: Tower, prompt: PromptSize, keep: float) -> tuple[Tower, PromptSize] | None:
            half = replace(prompt, visual=prompt.visual // 2, pictures=prompt.pictures // 2)
            return (tower, half) if keep == 0.5 else None

    decoder_side = {"shape": subject.shape, "prompt": PromptSize(36, 9, 9, pictures=4)}
    whole, half, unknown = (count(method=Half(), keep=keep, **decoder_side).exact for keep in (1.0, 0.5, 0.25))
    assert whole.vision and half.vision == pytest.approx(whole.vision / 2) and half.decoder < whole.decoder
    assert unknown.vision is None and unknown.total is None


CHEAPER = {
    # Of 20 tokens 9 (3 x 3) are a size, and of 27 12 (2 x 2 a pair of frames).
    "qwen2_vl": [("image", "downsample", 9 / 20), ("video", "downsample", 12 / 27), ("video", "fewer_frames", 0.5)],
    "llava_onevision": [
        ("image", "downsample", 0.5),
        ("video", "downsample", 0.25),
        ("video", "fewer_frames", 0.5),
        ("video", "fewer_frames", 0.1),
    ],
    "vila": [("image", "downsample", 0.5), ("video", "downsample", 0.25), ("video", "fewer_frames", 0.5)],
}


def told_of_frames(subject: Subject, prompt: VisualPrompt) -> None:
    """VILA has no placeholder for a video: that its images are frames is said here, and what is left of its text."""
    (full,) = split(subject.model, subject.inputs["video"], "video")
    ids, frame = full.ids.tolist(), subject.model.config.image_token_id

    def retold(chosen: list[tuple[int, ...]]) -> list[int]:
        first, rest = ids.index(frame), [token for token in ids if token != frame]
        return [*rest[:first], *[frame] * len(chosen[0]), *rest[first:]]

    prompt.source = lambda: replace(full, retell=retold)


def test_a_cheaper_input_is_counted_at_its_own_size(subject: Subject) -> None:
    """From its pixels to the first token; every layer works on all that is made of it."""
    for media, name, keep in CHEAPER[subject.family]:
        (prompt,) = encode(subject.model, subject.inputs[media])
        if name == "fewer_frames" and subject.family == "vila":
            told_of_frames(subject, prompt)
        with FlopCounterMode(display=False, custom_mapping=UNKNOWN) as counter:
            _, record = generate(subject.model, prompt, method(name), keep, max_new_tokens=1)
        found = subject.counted(media, prompt, method(name), keep)
        assert list(found.worked) == record.by_layer and found.worked[0] < prompt.n_visual, (media, name)
        assert found.exact.total == pytest.approx(counter.get_total_flops() - tables(counter), rel=1e-3), (media, name)


@pytest.mark.parametrize(("size", "left"), [((384, 512), 874), ((384, 500), 836)])
def test_what_tiles_are_downsampled_to_follows_from_the_images_size(size: tuple[int, int], left: int) -> None:
    """1728 tokens in 3 tiles both; of each, half is what the method itself makes."""
    name = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    prompt = of_size(name, f"{size[0]}x{size[1]}")
    assert prompt == PromptSize(1728, pictures=3, size=size)
    found = count(shape_of(name), method("downsample"), 0.5, prompt)
    picture = LlavaOneVisionPicture("image", torch.empty(3, 3, 384, 384), original=size, layout=(1, 2))
    model = SimpleNamespace(config=SimpleNamespace(image_token_id=7))
    made = Input(model, torch.full((1728,), 7), (picture,), ()).cheaper(method("downsample"), 0.5)
    assert found.worked == found.held == (left,) * 28 and made.tokens == left == len(made.ids)


def test_what_tiles_are_downsampled_to_is_not_told_by_their_number() -> None:
    tower = Tower(hidden=8, ffn=16, layers=1, patch=12, merged=1, inside=8, patches=9, rows=9)
    tiles, video = PromptSize(visual=31, pictures=4), PromptSize(16 + 1, pictures=4, media="video")
    whole, several = PromptSize(9 + 1), PromptSize(3 * (9 + 1), pictures=3)
    downsample = method("downsample")
    assert downsample.encoded(tower, tiles, 0.5) is None
    with pytest.raises(UnknownInput, match="nobody says what is made of 31 visual tokens in 4 pictures"):
        count(Shape(shape_of("Qwen2-VL-7B-Instruct").decoder, tower), downsample, 0.5, tiles)
    for prompt, keep, side, tokens in ((video, 0.25, 2, 5), (whole, 0.5, 2, 5), (several, 0.5, 2, 15)):
        seen = downsample.encoded(tower, prompt, keep)
        assert seen is not None and (seen[0].patches, seen[1].visual) == (side**2, tokens)


def test_the_papers_longest_video_is_made_cheaper_to_the_nearest_budget() -> None:
    """32 frames of 196 tokens and a newline of LLaVA-OneVision 7B: a quarter is 8 frames, or 7 x 7 tokens a frame."""
    tower = Tower(hidden=1152, ffn=4304, layers=26, patch=588, merged=1, inside=3584, patches=729, rows=729)
    prompt = PromptSize(visual=32 * 196 + 1, pictures=32, media="video")
    for name, pictures in (("fewer_frames", 8), ("downsample", 32)):
        seen = method(name).encoded(tower, prompt, 0.25)
        assert seen is not None and (seen[1].visual, seen[1].pictures) == (8 * 196 + 1, pictures)
    assert method("fewer_frames").encoded(tower, PromptSize(visual=3, pictures=4), 0.5) is None


@pytest.mark.parametrize("head_weights", ["grad", "mean"])
def test_relevance_costs_what_its_textbook_form_costs(subject: Subject, head_weights: str) -> None:
    """Forward and backward passes; its streaming form computes some of it again to save memory."""
    chosen = method("relevance", head_weights=head_weights)
    (prompt,) = encode(subject.model, subject.inputs["image"])
    with FlopCounterMode(display=False) as counter:
        prompt.cache["generate_kwargs"] = {"max_new_tokens": 3, "min_new_tokens": 3}
        response = greedy_response(subject.model, prompt)
        textbook_relevance(subject.model, prompt, response, head_weights=head_weights)
    assert len(response) == 3
    scoring = subject.counted("image", prompt, chosen, 0.25, response=3).exact.scoring
    assert scoring == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_plan_cut_twice_is_counted_layer_by_layer(subject: Subject) -> None:
    """A method of another package: two cuts, and it does not say what its scoring costs."""
    from dataclasses import dataclass

    from model_wrappers.methods.fastv import FastV

    @dataclass(frozen=True)
    class Twice(FastV):
        def plan(self, n_layers: int, keep: float) -> dict[int, float]:
            return {1: (1 + keep) / 2, 3: keep}

        def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
            at = self.counts(shape.decoder.layers, keep, prompt.visual)
            return sum(shape.decoder.attention_rows(1, at[layer] + prompt.text) for layer in (0, 2))

    truth, prompt, worked = subject.measured("image", Twice(), 0.25)
    found = subject.counted("image", prompt, Twice(), 0.25)
    assert list(found.worked) == worked and len(set(worked)) == 3
    assert found.exact.total == pytest.approx(truth, rel=1e-3)
