"""Folders as VILA1.5 is published: loaded as our own, and told in one sentence where they are not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_wrappers.errors import UserError
from model_wrappers.families.checkpoint import check_checkpoint
from model_wrappers.vila import (
    VilaForConditionalGeneration,
    VilaProcessor,
    check_vila_folder,
    load_hub_layout,
)
from tests.tiny_vila import tiny_vila
from tests.vila.test_model import PROMPTS


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder of this test's own."""
    return Path(shutil.copytree(tiny_vila(layout="hub"), tmp_path / "Llama-3-VILA1.5-8b"))


def logits(model: Any, folder: Path) -> torch.Tensor:
    text, images = PROMPTS[0]
    with torch.no_grad():
        return model(**VilaProcessor.from_pretrained(folder)(text=text, images=images)).logits


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None takes one out."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_both_layouts_are_one_model(hub: Path, tmp_path: Path) -> None:
    model = load_hub_layout(hub)
    expected = logits(model, hub)
    assert model.name_or_path == str(hub)
    assert not model.training
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    VilaProcessor.from_pretrained(hub).save_pretrained(saved)
    assert check_checkpoint(saved) == "retain_vila"
    assert check_checkpoint(hub) == "llava_llama"
    again = VilaForConditionalGeneration.from_pretrained(saved).eval()
    assert torch.equal(logits(again, saved), expected)
    assert again.config.image_token_id == model.config.image_token_id == again.get_input_embeddings().num_embeddings


def test_shards_or_one_file(hub: Path) -> None:
    expected = logits(load_hub_layout(hub), hub)
    shards = sorted((hub / "llm").glob("model-*.safetensors"))
    assert len(shards) > 1
    whole = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    for path in [*shards, hub / "llm" / "model.safetensors.index.json"]:
        path.unlink()
    save_file(whole, hub / "llm" / "model.safetensors", {"format": "pt"})
    assert torch.equal(logits(load_hub_layout(hub), hub), expected)


def test_other_spellings_of_the_same_names(hub: Path) -> None:
    """The tower's names without their prefix, the projector's with one, and no head in the tower."""
    expected = logits(load_hub_layout(hub), hub)
    tower, projector = (hub / part / "model.safetensors" for part in ("vision_tower", "mm_projector"))
    weights = load_file(tower)
    assert any(name.startswith("vision_model.head.") for name in weights)
    kept = {name.removeprefix("vision_model."): t for name, t in weights.items() if ".head." not in name}
    save_file(kept, tower, {"format": "pt"})
    save_file({f"mm_projector.{name}": t for name, t in load_file(projector).items()}, projector, {"format": "pt"})
    assert torch.equal(logits(load_hub_layout(hub), hub), expected)


def test_precision_is_the_stored_one_or_the_one_asked_for(hub: Path) -> None:
    for shard in (hub / "llm").glob("model-*.safetensors"):
        save_file({name: t.bfloat16() for name, t in load_file(shard).items()}, shard, {"format": "pt"})
    for dtype, expected in {"auto": torch.bfloat16, torch.float16: torch.float16}.items():
        model = load_hub_layout(hub, dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
    model = load_hub_layout(hub, dtype=torch.float32, attn_implementation="eager")
    assert model.model.language_model.config._attn_implementation == "eager"
    assert model.model.vision_tower.config._attn_implementation == "eager"


def test_the_root_config_chooses_the_order_of_tokens(hub: Path) -> None:
    column = logits(load_hub_layout(hub), hub)
    edit(hub / "config.json", token_order="row")
    model = load_hub_layout(hub)
    assert model.config.token_order == "row"
    assert not torch.allclose(logits(model, hub), column, atol=1e-2)


def test_answers_end_at_both_separators_and_are_not_drawn(hub: Path) -> None:
    """The decoder's own generation_config samples, and knows one of the two."""
    theirs = json.loads((hub / "llm" / "generation_config.json").read_text())
    ours = load_hub_layout(hub).generation_config
    assert theirs["do_sample"] is True and ours.do_sample is False
    assert ours.eos_token_id == VilaProcessor.from_pretrained(hub).stop_ids


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no llm": (lambda hub: shutil.rmtree(hub / "llm"), "has no folder llm/"),
    "no tower": (lambda hub: shutil.rmtree(hub / "vision_tower"), "has no folder vision_tower/"),
    "no projector": (lambda hub: shutil.rmtree(hub / "mm_projector"), "has no folder mm_projector/"),
    "no config": (lambda hub: (hub / "mm_projector" / "config.json").unlink(), "mm_projector has no config.json"),
    "no root config": (lambda hub: (hub / "config.json").unlink(), "has no config.json"),
    "config": (lambda hub: (hub / "llm" / "config.json").write_text("{"), "llm/config.json is not JSON"),
    "no tokenizer": (lambda hub: (hub / "llm" / "tokenizer.json").unlink(), "llm has no tokenizer.json"),
    "tokenizer": (lambda hub: _cut(hub / "llm" / "tokenizer.json"), "tokenizer.json is not JSON"),
    "no preprocessor": (
        lambda hub: (hub / "vision_tower" / "preprocessor_config.json").unlink(),
        "vision_tower has no preprocessor_config.json",
    ),
    "no shard": (
        lambda hub: (hub / "llm" / "model-00002-of-00003.safetensors").unlink(),
        "has no model-00002-of-00003.safetensors, which its model.safetensors.index.json names",
    ),
    "shard": (
        lambda hub: _cut(hub / "llm" / "model-00002-of-00003.safetensors"),
        "model-00002-of-00003.safetensors has .* bytes where its header promises .*: it is not whole",
    ),
    "no weights": (lambda hub: (hub / "vision_tower" / "model.safetensors").unlink(), "vision_tower has no weights"),
    "format": (
        lambda hub: (hub / "mm_projector" / "model.safetensors").rename(hub / "mm_projector" / "pytorch_model.bin"),
        "mm_projector has its weights in another format than safetensors",
    ),
    "projector": (lambda hub: edit(hub / "mm_projector" / "config.json", mm_projector_type="linear"), "'linear'; only"),
    "decoder": (lambda hub: edit(hub / "llm" / "config.json", model_type="qwen2"), "'qwen2'; only 'llama'"),
    "scales": (lambda hub: edit(hub / "config.json", s2=True), "has s2 True; only False is supported"),
    "class token": (lambda hub: edit(hub / "config.json", mm_vision_select_feature="patch"), "only 'cls_patch'"),
    "order": (lambda hub: edit(hub / "config.json", token_order="spiral"), "'spiral'; only 'column' or 'row'"),
    "template": (lambda hub: edit(hub / "config.json", template="vicuna_v1"), "'vicuna_v1'; only 'llama_3' or"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_told_before_it_loads(fault: str, hub: Path) -> None:
    change, sentence = BROKEN[fault]
    change(hub)
    with pytest.raises(UserError, match=sentence) as caught:
        check_vila_folder(hub)
    assert "\n" not in str(caught.value) and str(hub) in str(caught.value)
    with pytest.raises(UserError):
        load_hub_layout(hub)
    if fault != "no root config":
        with pytest.raises(UserError):
            check_checkpoint(hub)


def test_tensors_that_are_not_the_configs_are_named(hub: Path) -> None:
    path = hub / "mm_projector" / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "layers.4.bias": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.4\.bias is \(3,\) where the config promises \(32,\)"):
        load_hub_layout(hub)
    del weights["layers.2.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"lack model\.multi_modal_projector\.layers\.2\.weight"):
        load_hub_layout(hub)
    edit(hub / "llm" / "config.json", vocab_size=300)
    save_file({**weights, "layers.2.weight": torch.zeros(32, 64)}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"embed_tokens\.weight is \(262, 32\) where the config promises \(300, 32\)"):
        load_hub_layout(hub)


def test_a_preprocessor_for_another_tower_is_told(hub: Path) -> None:
    edit(hub / "vision_tower" / "preprocessor_config.json", size={"height": 32, "width": 32})
    with pytest.raises(UserError, match="the tower takes 64 x 64"):
        VilaProcessor.from_pretrained(hub)
