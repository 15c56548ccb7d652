"""Rule 7: the token on which the answer depends survives. An ascending sort, or the wrong row, fails here.

A tiny model is given a channel: one visual token carries a flag; every layer's keys read it, every query asks for it,
so that the flagged token's content is what the answer is made of.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_wrappers import compress
from model_wrappers.compressor import Compressor
from tests.model_wrappers.conftest import PROMPTS, load, visual_of
from tests.model_wrappers.table import SCORING_METHODS, Family, Row

FLAG = 0
"""The channel of the hidden states that carries the flag."""


STEPS = 3


@pytest.fixture(scope="module")
def flagged(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny model with flag-reading attention, and compressors that only amplify what they get."""
    # Slow rotation: the flag must be found from any distance.
    rope = {"rope_type": "default", "rope_theta": 1e8, **family.rope}
    folder = tmp_path_factory.mktemp("planted") / "flagged"
    family.build(folder, num_hidden_layers=4, rope_parameters=rope, **family.planted)
    for media in ("image", "video"):
        net = Compressor("flagged", media=media, input_scale="mean")  # type: ignore[arg-type]
        for name, parameter in net.named_parameters():
            torch.nn.init.zeros_(parameter)
            if name.endswith("weight"):
                with torch.no_grad():
                    parameter[..., parameter.shape[-1] // 2] = 1.0 / parameter.shape[1]
        net.save_pretrained(folder / f"compressor-{media}")
    model = load(folder)
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[:, FLAG] = 0.0
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            slowest = attention.head_dim // 2 - 1
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight.zero_()
                projection.bias.zero_()
            attention.q_proj.bias.view(-1, attention.head_dim)[:, slowest] = 4.0
            attention.k_proj.weight.view(-1, attention.head_dim, 32)[:, slowest, FLAG] = 1.5
            for writer in (attention.o_proj, layer.mlp.down_proj):
                writer.weight[FLAG] = 0.0
                if writer.bias is not None:
                    writer.bias[FLAG] = 0.0
    return model


def plant(model: Any, visual: torch.Tensor, at: int) -> Any:
    """Flags the visual token `at` of a prompt and no other, in what its prefill feeds the decoder."""
    rows = visual.nonzero().squeeze(1)

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        embeds = kwargs["inputs_embeds"]
        if embeds.shape[1] != len(visual):
            return None  # a step, or a prompt that is cut already
        embeds = embeds.clone()
        embeds[0, rows, FLAG] = 0.0
        if at >= 0:
            embeds[0, rows[at], FLAG] = 12.0
        return args, {**kwargs, "inputs_embeds": embeds}

    return model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)


@SCORING_METHODS
@pytest.mark.parametrize("media", ["image", "mixed", "video"])
def test_the_planted_token_survives(flagged: Any, ask: Any, family: Family, row: Row, media: str) -> None:
    inputs, count = ask(PROMPTS[media]), family.visual(media)

    def answer(flag: int) -> list[int]:
        handle = plant(flagged, visual_of(flagged, inputs), flag)
        try:
            return flagged.generate(**inputs, max_new_tokens=STEPS, min_new_tokens=STEPS)[0, -STEPS:].tolist()
        finally:
            handle.remove()

    plain = answer(-1)
    for where in (0.0, 0.4, 1.0):
        at = round(where * (count - 1))
        assert answer(at) != plain, "the answer must depend on the planted token"
        with compress(flagged, row.name, keep=0.05, **row.fields) as compression:
            answer(at)
        assert at in compression.last[0].kept.tolist()
        assert len(compression.last[0].kept) == row.counts(0.05, count)[-1] < 8
