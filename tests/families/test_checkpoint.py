"""A checkpoint folder without a file, or with half of one, is told in one sentence before anything loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Qwen2VLForConditionalGeneration

from harness.models import model_info, open_model
from model_wrappers.errors import UserError
from model_wrappers.families.checkpoint import check_checkpoint, find_checkpoint
from tests.tiny import tiny_qwen2_vl


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_qwen2_vl(), tmp_path / "checkpoint"))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pointer_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605680\n")


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_image_processor(folder: Path) -> None:
    (folder / "processor_config.json").write_text("{}")


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def another_family(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("config.json"), "has no config.json"),
        (not_json, "config.json is not JSON"),
        (another_family, "is a llama checkpoint"),
        (remove("model.safetensors"), "has no weights"),
        (cut_weights, "model.safetensors has "),
        (pointer_for_weights, "model.safetensors is not a safetensors file"),
        (lost_shard, "has no model-00001-of-00002.safetensors"),
        (remove("tokenizer.json"), "has no tokenizer.json"),
        (remove("processor_config.json"), "has no preprocessor_config.json"),
        (no_image_processor, "has no preprocessor_config.json"),
        (remove("chat_template.jinja"), "has no chat template"),
    ],
)
def test_a_broken_folder_is_told(damage: Callable[[Path], None], said: str, folder: Path) -> None:
    assert model_info(str(folder)).path_or_hub_id == str(folder)
    damage(folder)
    for use in (model_info, open_model):
        with pytest.raises(UserError) as error:
            use(str(folder))
        assert said in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def test_older_layouts_are_read(folder: Path) -> None:
    """The published checkpoints: preprocessor_config.json, chat_template.json, weights in shards."""
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(processor["image_processor"]))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert check_checkpoint(folder) == "qwen2_vl"
    assert open_model(str(folder), device="cpu", max_new_tokens=2).generate([{"type": "text", "value": "Hello"}])


def test_a_model_that_is_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    with pytest.raises(UserError, match="No checkpoint folder ./not/here"):
        find_checkpoint("./not/here")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match="Qwen/Qwen2-VL-2B-Instruct at revision abc is not in the hub's cache, and HF_HUB_OFFLINE"
    ):
        find_checkpoint("Qwen/Qwen2-VL-2B-Instruct", "abc")


def test_a_hub_model_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / commit
    shutil.copytree(tiny_qwen2_vl(), snapshot)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert find_checkpoint("someone/tiny", commit) == snapshot
