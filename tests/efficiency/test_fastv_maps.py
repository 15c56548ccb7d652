"""FastV by attention maps, measured only: it keeps and answers what `fastv` does, and needs maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.efficiency import fastv_maps
from harness.efficiency.inputs import make
from harness.efficiency.variants import Variant
from harness.models import open_model
from model_wrappers.anatomy import language_model
from model_wrappers.encoding import encode
from model_wrappers.methods.fastv import FastV
from tests.efficiency.conftest import TOKENS


@pytest.mark.parametrize("family", list(TOKENS))
@pytest.mark.parametrize("layer", [2, 4])
def test_a_row_beside_sdpa_and_a_map_of_eager_attention_keep_the_same(
    family: str, layer: int, folders: dict[str, Path]
) -> None:
    model = open_model(str(folders[family])).model
    (prompt,) = encode(model, make(model.config, TOKENS[family], "video").tensors)
    answer, record = Variant(FastV(layer=layer), 0.25).answer(model, prompt, 4)
    again, by_map = Variant(FastV(layer=layer), 0.25, eager=True).answer(model, prompt, 4)
    assert by_map.kept.tolist() == record.kept.tolist() and by_map.kv_visual == record.kv_visual
    assert again.tolist() == answer.tolist() and by_map.scoring_seconds > 0
    assert language_model(model).config._attn_implementation == "sdpa"


def test_another_kernel_makes_no_map(folders: dict[str, Path]) -> None:
    model = open_model(str(folders["qwen2_vl"])).model
    (prompt,) = encode(model, make(model.config, 24, "video").tensors)
    with pytest.raises(ValueError, match="needs eager attention"):
        fastv_maps.generate(model, prompt, FastV(), 0.5, max_new_tokens=2)
    assert not any(layer.self_attn._forward_hooks for layer in language_model(model).layers)
