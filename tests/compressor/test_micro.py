"""The whole line on an embedded model: questions about training scenes, collected, trained, measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cli import main
from harness.compressor.dataset import TrainingSet
from harness.micro import compressor
from harness.micro.cli import CHECKPOINTS
from harness.micro.compressor import collect
from harness.micro.families import FAMILIES, family
from harness.micro.scenes import HELD_OUT, sample_scene
from model_wrappers.compressor import Compressor

NAME = "micro-qwen2-vl"


def test_collected_in_memory() -> None:
    made = family(NAME)
    model, processor = made.load(CHECKPOINTS / NAME)
    pairs, asked = collect(made, model, processor, video=True, samples=4, seed=3)
    assert len(pairs) == 4 <= asked and len({pair.id for pair in pairs}) == 4
    again, _ = collect(made, model, processor, video=True, samples=2, seed=3)
    assert [pair.group for pair in again] == [pair.group for pair in pairs[:2]], "by what the scene shows"
    for pair in pairs:
        assert len(pair.attention) == len(pair.relevance) == np.prod(pair.grids[0])
        assert float(pair.relevance.min()) >= 0 < float(pair.relevance.max())


def test_teach_publishes_in_place_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(CHECKPOINTS / NAME, tmp_path / NAME)
    before = (tmp_path / NAME / "compressor-video" / "model.safetensors").read_bytes()
    asked = ["micro", "teach", NAME, "--out", f"{tmp_path}", "--samples", "12", "--epochs", "2"]
    assert main(asked) == 0
    for media in ("video", "image"):
        folder = tmp_path / NAME / f"compressor-{media}"
        net = Compressor.from_pretrained(folder, NAME)
        assert net.media == media and net.input_scale == "mean"
        record = json.loads((folder / "training.json").read_text())
        assert record["epochs_done"] == 2 and record["data"]["questions"]["answered right and kept"] == 12
        assert f"`retain micro teach {NAME} --samples 12 --epochs 2 --seed 0`" in (folder / "README.md").read_text()
    assert (tmp_path / NAME / "compressor-video" / "model.safetensors").read_bytes() != before
    assert "answered right and kept" in capsys.readouterr().err


@pytest.mark.parametrize("name", FAMILIES)
def test_every_model_is_taught_videos_and_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the one whose images are 36 tokens: `retain show` has a prediction for its images, too."""
    taught = []

    def teach(family: Any, model: Any, processor: Any, folder: Path, *, media: str, **_: Any) -> tuple[None, int]:
        taught.append(media)
        pairs, asked = collect(family, model, processor, video=media == "video", samples=1, seed=1)
        assert len(pairs) == 1 and folder == tmp_path / name / f"compressor-{media}"
        return None, asked

    monkeypatch.setattr(compressor, "teach", teach)
    (tmp_path / name).symlink_to(CHECKPOINTS / name)
    assert main(["micro", "teach", name, "--out", f"{tmp_path}"]) == 0
    assert taught == ["video", "image"]


@pytest.mark.parametrize("media", ["video", "image"])
def test_from_questions_to_scores(media: str, tmp_path: Path) -> None:
    questions, data, net = (tmp_path / name for name in ("questions", "data", "net"))
    assert main(["micro", "questions", "--out", f"{questions}", "--media", media, "--samples", "12"]) == 0
    source = questions / f"{media}.jsonl"
    assert len(source.read_text().splitlines()) == 12
    assert main(["compressor", "collect", "--model", NAME, "--data", f"{source}", "--out", f"{data}"]) == 0
    counts = TrainingSet.open(data).counts()
    assert counts["asked"] == 12 and counts["kept"] >= 8, "the model knows the words"
    assert main(["compressor", "train", "--data", f"{data}", "--out", f"{net}", "--epochs", "1"]) == 0
    assert main(["compressor", "evaluate", "--compressor", f"{net}", "--data", f"{data}", "--out", f"{tmp_path}"]) == 0
    assert json.loads((tmp_path / f"{NAME}-{media}.json").read_text())["samples"] >= 1


def test_questions_are_about_training_scenes(tmp_path: Path) -> None:
    """The group is the digest of what the scene shows, and that says that it may be trained on."""
    assert main(["micro", "questions", "--out", f"{tmp_path}", "--samples", "6", "--seed", "5"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "video.jsonl").read_text().splitlines()]
    assert all(int(row["group"][:8], 16) % HELD_OUT for row in rows)
    rng = np.random.default_rng([5, 2])
    assert rows[2]["group"] == sample_scene(rng, video=True, held_out=False).digest
    assert len({row["video"] for row in rows}) == 6 and all((tmp_path / row["video"]).is_file() for row in rows)
    assert main(["micro", "questions", "--out", f"{tmp_path}", "--media", "sound"]) == 2
