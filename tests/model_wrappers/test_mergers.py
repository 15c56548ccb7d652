"""What holds for every method that merges or that only some media have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from model_wrappers import UserError, budget, compress, encode, generate
from model_wrappers.methods.base import LayerPruner
from model_wrappers.registry import method
from tests.model_wrappers.conftest import IMAGE, MIXED, TEXT, VIDEO, answer
from tests.model_wrappers.table import only


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
