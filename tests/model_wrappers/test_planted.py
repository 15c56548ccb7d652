"""Rule 7: the token on which the answer depends survives. An ascending sort, or the wrong row, fails here.

A tiny model is given a channel: one visual token carries a flag; every layer's keys read it, every query asks for it,
so that the flagged token's content is what the answer is made of.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from model_wrappers import compress
from model_wrappers.compressor import Compressor
from tests.model_wrappers.conftest import IMAGE, MIXED, VIDEO
from tests.model_wrappers.table import SCORING_METHODS, Row
from tests.tiny import tiny_qwen2_vl

FLAG = 0
"""The channel of the hidden states that carries the flag."""


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny model with flag-reading attention, and compressors that only amplify what they get."""
    # Slow rotation: the flag must be found from any distance.
    rope = {"rope_type": "default", "rope_theta": 1e8, "mrope_section": [1, 1, 2]}
    folder = tiny_qwen2_vl(tmp_path_factory.mktemp("planted") / "flagged", rope_parameters=rope)
    for media in ("image", "video"):
        net = Compressor("flagged", media=media, input_scale="mean")  # type: ignore[arg-type]
        for name, parameter in net.named_parameters():
            torch.nn.init.zeros_(parameter)
            if name.endswith("weight"):
                with torch.no_grad():
                    parameter[..., parameter.shape[-1] // 2] = 1.0 / parameter.shape[1]
        net.save_pretrained(folder / f"compressor-{media}")
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
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
    return model


def plant(model: Any, at: int) -> Any:
    """Flags the visual token `at`, counted over all that the vision encoder gives (images first), and no other."""
    state = {"seen": 0}

    def hook(module: Any, args: Any, output: Any) -> None:
        features = output.pooler_output
        features[:, FLAG] = 0.0
        if 0 <= at - state["seen"] < features.shape[0]:
            features[at - state["seen"], FLAG] = 12.0
        state["seen"] += features.shape[0]

    return model.model.visual.register_forward_hook(hook)


@SCORING_METHODS
@pytest.mark.parametrize(("parts", "count"), [(IMAGE, 20), (MIXED, 30), (VIDEO, 36)])
@pytest.mark.parametrize("where", [0.0, 0.4, 1.0])
def test_the_planted_token_survives(
    flagged: Any, ask: Any, row: Row, parts: list[Any], count: int, where: float
) -> None:
    at = round(where * (count - 1))
    inputs = ask(parts)

    def answer(flag: int) -> list[int]:
        handle = plant(flagged, flag)
        try:
            return flagged.generate(**inputs, max_new_tokens=3, min_new_tokens=3)[0, -3:].tolist()
        finally:
            handle.remove()

    assert answer(at) != answer(-1), "the answer must depend on the planted token"
    with compress(flagged, row.name, keep=0.05, **row.fields) as compression:
        answer(at)
    assert at in compression.last[0].kept.tolist()
    assert len(compression.last[0].kept) < 3
