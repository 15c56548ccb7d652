"""Which compressor answers a cell, by model; told before any model is loaded where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness import plan as plans
from harness import sweep
from harness.compressor.chosen import untaught
from harness.data.sources import PAPER
from harness.experiments import Experiment, load
from harness.models import model_info
from harness.plan import Data
from harness.store import Store
from model_wrappers.compressor import Compressor
from model_wrappers.errors import UserError
from model_wrappers.registry import method
from tests.benchmarks import layouts
from tests.loopback_hub import COMMIT, Repository, folder_files, serving
from tests.sweep.conftest import write_experiment
from tests.tiny import tiny_qwen2_vl

ROWS: list[dict[str, Any]] = [{"method": "cnn", "keep": 0.5}]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkpoint without compressors."""
    folder = tmp_path / "checkpoints" / "bare"
    shutil.copytree(tiny_qwen2_vl(seed=5), folder, ignore=shutil.ignore_patterns("compressor-*"))
    return folder


@pytest.fixture
def ask(tmp_path: Path, bare: Path) -> Callable[..., Experiment]:
    """Experiments over it, with compressors by model."""

    def make(**compressors: str) -> Experiment:
        path = write_experiment(tmp_path, bare, ROWS, ("NExT-QA-MC",))
        content = yaml.safe_load(path.read_text())
        content["profiles"]["paper"]["compressors"] = {str(bare): place for place in compressors.values()}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load(path, "paper")

    return make


def saved(folder: Path, seed: int = 0, mllm: str = "bare") -> Path:
    import torch

    torch.manual_seed(seed)
    return Compressor(mllm=mllm, media="video", channels=(4, 8)).save_pretrained(folder)


def plan_of(chosen: Experiment, data: Path, tmp_path: Path) -> plans.Plan:
    return plans.make(chosen, Data(chosen, data), Store(tmp_path / "runs"))


def test_none_is_told_with_the_commands_that_train_one(ask: Any, bare: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    layouts.next_qa(data)
    with pytest.raises(UserError) as raised:
        plan_of(ask(), data, tmp_path)
    said = str(raised.value)
    assert said.startswith(f"cnn needs a compressor of {bare} for videos, and there is none: train one with ")
    assert f"`retain compressor collect --model {bare} --data SOURCE --out SET --benchmarks {data}`" in said
    assert f"`retain compressor train --data SET --out {data}/compressors/bare/compressor-video`" in said
    assert "\n" not in said
    for folder in (PAPER, Path("results/data")):  # where `collect` looks for test videos by itself
        with pytest.raises(UserError, match=r"--data SOURCE --out SET` and"):
            untaught(method("cnn"), model_info(str(bare)), "video", folder)


def test_three_places_and_what_goes_first(ask: Any, bare: Path, tmp_path: Path) -> None:
    """Named for the model; beside the data, which `retain compressor train` was told; in the checkpoint."""
    data = tmp_path / "data"
    layouts.next_qa(data)
    saved(bare / "compressor-video", seed=1)
    (own,) = plan_of(ask(), data, tmp_path).cells
    saved(data / "compressors" / "bare" / "compressor-video", seed=2)
    (beside,) = plan_of(ask(), data, tmp_path).cells
    elsewhere = saved(tmp_path / "mine", seed=3)
    chosen = ask(a=str(elsewhere))
    (named,) = plan_of(chosen, data, tmp_path).cells
    parts = [cell.settings["method"] for cell in (own, beside, named)]
    assert [part["fields"]["compressor"] for part in parts] == [None, None, str(elsewhere)]
    assert len({str(part["compressor"]) for part in parts}) == 3, "each is known by its files"
    assert list(parts[1]["compressor"]) == ["compressor-video"] and list(parts[2]["compressor"]) == ["mine"]
    store = Store(tmp_path / "runs")
    assert sweep.run(chosen, store, data=Data(chosen, data)).failures == []
    shutil.rmtree(elsewhere)
    with pytest.raises(UserError, match="is no folder with config.json and model.safetensors"):
        plan_of(chosen, data, tmp_path)


def test_one_row_names_a_compressor_for_each_model(bare: Path, tmp_path: Path) -> None:
    """By `{model}`, in the row or for the experiment; the plan is another where that compressor is another."""
    data = tmp_path / "data"
    layouts.next_qa(data)
    rows = [{"method": "cnn", "fields": {"compressor": f"{tmp_path}/nets/{{model}}/logit"}, "keep": 0.5}]
    chosen = load(write_experiment(tmp_path, bare, rows, ("NExT-QA-MC",)), "paper")
    keys = set()
    for seed in (1, 2):
        place = saved(tmp_path / "nets" / "bare" / "logit", seed=seed)
        keys.add(plans._key(chosen, data))
    assert len(keys) == 2
    (cell,) = plan_of(chosen, data, tmp_path).cells
    assert cell.settings["method"]["fields"]["compressor"] == str(place)
    assert list(cell.settings["method"]["compressor"]) == ["logit"]


def test_the_answers_are_those_of_the_compressor_that_was_chosen(ask: Any, bare: Path, tmp_path: Path) -> None:
    """One for another model is refused by name: so the one beside the data was read, and not the checkpoint's."""
    data = tmp_path / "data"
    layouts.next_qa(data)
    saved(bare / "compressor-video")
    saved(data / "compressors" / "bare" / "compressor-video", mllm="another")
    chosen = ask()
    with pytest.raises(UserError, match="was trained for another, not for bare"):
        sweep.run(chosen, Store(tmp_path / "runs"), data=Data(chosen, data), workers=1)


def test_a_compressor_for_other_media_only(tmp_path: Path) -> None:
    (tmp_path / "compressor-video").mkdir()
    info: Any = SimpleNamespace(path_or_hub_id=str(tmp_path), revision=None, name="m")
    said = "its checkpoint has compressor-video and none for images"
    assert untaught(method("cnn"), info, "image", tmp_path) == said
    assert untaught(method("cnn"), info, "video", tmp_path) is None
    assert untaught(method("uniform"), info, "image", tmp_path) is None
    by_name = method("cnn", compressor=str(tmp_path))
    assert untaught(by_name, info, "image", tmp_path) == f"{tmp_path} has compressor-video and none for images"
    assert untaught(by_name, info, "video", tmp_path) is None
    (tmp_path / "compressor-video").rmdir()
    with pytest.raises(UserError, match="cnn needs a compressor of m for images"):
        untaught(method("cnn"), info, "image", tmp_path)


def test_an_embedded_model_is_taught_by_its_own_command(tmp_path: Path) -> None:
    info: Any = SimpleNamespace(path_or_hub_id=str(tmp_path), revision=None, name="micro-vila")
    with pytest.raises(UserError, match="train one with `retain micro teach micro-vila`$"):
        untaught(method("cnn"), info, "video", tmp_path)


def test_a_compressor_of_the_hub(tmp_path: Path) -> None:
    """The real client, asked for the revision that was named; a place with one compressor for each kind of media."""
    saved(tmp_path / "net" / "compressor-video")
    (tmp_path / "net" / "card.md").write_text("not asked for")
    code = (
        "import sys; from model_wrappers.compressor.hub import locate, media_folder;"
        "print(media_folder(locate(sys.argv[1]), 'video'))"
    )
    with serving() as hub:
        hub.models["someone/net"] = Repository(folder_files(tmp_path / "net"))
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

        def ask(where: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", code, where]
            return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

        found = ask(f"someone/net@{COMMIT}")
        assert found.returncode == 0, found.stderr
        folder = Path(found.stdout.strip())
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        assert COMMIT in folder.parts and not (folder.parent / "card.md").exists()
        assert all(f"/{COMMIT}" in path for _, path, _ in hub.asked if "someone/net" in path)
        failed = ask("someone/net@nowhere")
    assert f"someone/net has no revision nowhere on the hub ({hub.url}/someone/net)" in failed.stderr


def test_a_revision_is_a_setting_of_the_experiment(tmp_path: Path) -> None:
    """It is part of the model in a cell's id, stands for the pinned one, and goes to `from_pretrained`."""
    model = "Qwen2-VL-7B-Instruct"
    path = write_experiment(tmp_path, Path(model), [{"method": "vanilla"}], settings={"revision": COMMIT})
    chosen = load(path, "paper")
    assert plans.open_settings(chosen, model)["revision"] == COMMIT and chosen.settings_of(model) == {}
    info = plans.info_of(chosen, model)
    assert (info.revision, model_info(model).revision) == (COMMIT, "eed13092ef92e448dd6875b2a00151bd3f7db0ac")
    part = plans._model_settings(chosen, info)
    assert part["model"]["revision"] == COMMIT and "revision" not in part["generation"]
    assert (
        plans._model_settings(load(write_experiment(tmp_path, Path(model), ROWS, settings={}), "paper"), info) == part
    )


@pytest.mark.parametrize(
    ("model", "revision", "said"),
    [
        ("Qwen2-VL-7B-Instruct", "a b", "revision: 'a b' is not allowed here; allowed are a commit, a tag or a branch"),
        ("Qwen2-VL-7B-Instruct", 7, "revision: 7 is not allowed here; allowed are text"),
        ("micro-vila", "main", "revision: only models of the hub have one"),
    ],
)
def test_a_revision_that_cannot_be(tmp_path: Path, model: str, revision: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(write_experiment(tmp_path, Path(model), ROWS, settings={"revision": revision}), "paper")


def test_a_compressor_of_a_model_that_is_not_asked(tmp_path: Path, checkpoint: Path) -> None:
    path = write_experiment(tmp_path, checkpoint, ROWS)
    content = yaml.safe_load(path.read_text())
    content["profiles"]["paper"]["compressors"] = {"Qwen2-VL-7B-Instruct": "a/b"}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="profiles.paper.compressors: unknown name 'Qwen2-VL-7B-Instruct'"):
        load(path, "paper")


def test_a_plan_sees_a_compressor_put_into_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = "Qwen2-VL-7B-Instruct"
    chosen = load(write_experiment(tmp_path, Path(model), ROWS, settings={"revision": COMMIT}), "paper")
    (tmp_path / "data").mkdir()
    root = tmp_path / "cache" / f"models--Qwen--{model}"
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    keys = [plans._key(chosen, tmp_path / "data")]
    for seed in (1, 2):
        saved(folder / "compressor-video", seed=seed, mllm=model)
        keys.append(plans._key(chosen, tmp_path / "data"))
    assert len(set(keys)) == 3
