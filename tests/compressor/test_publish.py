"""`retain compressor train`: the published folder, its card, going on, and mistakes told in one sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.cli import main
from harness.compressor import train
from harness.compressor.evaluate import evaluate
from harness.compressor.split import split
from model_wrappers.compressor import Compressor
from tests.compressor.made import planted, written

PAIRS = planted(60, groups=30)
FILES = ["README.md", "config.json", "curves.csv", "curves.png", "model.safetensors", "training.json"]


def ask(data: Path, out: Path, *more: str) -> int:
    return main(["compressor", "train", "--data", f"{data}", "--out", f"{out}", "--epochs", "2", *more])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sets") / "my-samples", PAIRS)


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "compressor"
    assert ask(data, folder, "--seed", "7", "--input-scale", "mean", "--precision", "float32") == 0
    return folder


def test_the_folder_is_small_and_can_be_used(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert sum(path.stat().st_size for path in out.iterdir()) < 2**20
    net = Compressor.from_pretrained(out, "some-mllm")
    assert net.media == "video" and net.input_scale == "mean" and net.n_parameters() == 177_541


def test_its_scores_are_those_of_its_weights(out: Path) -> None:
    found = evaluate(Compressor.from_pretrained(out), split(PAIRS)[1]).content()
    assert json.loads((out / "training.json").read_text())["held_out"] == json.loads(json.dumps(found))


def test_the_curves(out: Path) -> None:
    rows = list(csv.DictReader((out / "curves.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    losses = [[float(row["train_kl"]), float(row["held_out_kl"])] for row in rows]
    assert losses == json.loads((out / "training.json").read_text())["curves"]
    with Image.open(out / "curves.png") as picture:
        assert picture.size == (720, 480) and len(picture.convert("L").getcolors() or []) > 3


def test_the_card_says_what_it_is_made_of(out: Path, data: Path) -> None:
    text = (out / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: vlm-retain\n")
    record = json.loads((out / "training.json").read_text())
    training, unseen = split(PAIRS)
    rows = dict(_cells(line) for line in text.splitlines() if line.count("|") == 3)
    overlap = record["held_out"]["scores"]["cnn"]["overlap@0.25"][0]
    assert f"{100 * overlap:.1f}% " in next(line for line in text.splitlines() if line.startswith("| cnn "))
    assert (
        rows["samples: training"] == f"{len(training)} about {len({pair.group for pair in training})} videos or images"
    )
    assert rows["samples: held out"] == f"{len(unseen)} about {len({pair.group for pair in unseen})}"
    assert rows["questions: asked"] == "61" and rows["questions: wrong answer"] == "1"
    assert rows["folder"] == "my-samples" and rows["model: hub"] == "someone/some-mllm"
    assert rows["relevance: target"] == "logit" and rows["sources 1: name"] == "made"
    assert rows["epochs"] == "2 of 2, weights of epoch 2" and rows["seed"] == "7" and rows["early stopping"] == "off"
    assert rows["channels, kernel"] == "32-64-128-256-512, 3" and rows["parameters"] == "177,541"
    assert rows["retain"] and rows["commit"] and rows["device"]
    assert f"retain compressor train --data {data} --out {out} --epochs 2 --seed 7" in rows["command"]


def test_a_card_says_that_early_stopping_saw_the_held_out_samples(data: Path, tmp_path: Path) -> None:
    assert ask(data, tmp_path / "net", "--patience", "1") == 0
    rows = dict(_cells(line) for line in (tmp_path / "net/README.md").read_text().splitlines() if line.count("|") == 3)
    assert rows["early stopping"].startswith("after 1 epochs without gain on the held-out samples, which so choose the")


def _cells(line: str) -> tuple[str, str]:
    _, name, value, _ = line.split("|")
    return name.strip(), value.strip()


def test_the_same_command_again_does_nothing(
    out: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("harness.compressor.publish.fit", None)
    assert ask(data, out, "--seed", "7", "--input-scale", "mean", "--precision", "float32") == 0
    assert "already" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_compressor_is_not_replaced(out: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (out / "model.safetensors").read_bytes()
    assert ask(data, out, "--seed", "8") == 2
    assert "another compressor" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before


def test_after_ctrl_c_the_same_command_gives_the_same_weights(
    data: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--seed", "7", "--input-scale", "mean", "--precision", "float32")
    inner, calls = train._pass, []

    def stopped(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(train, "_pass", stopped)
    assert ask(data, tmp_path / "net", *asked) == 130
    assert "Go on with: retain compressor train" in capsys.readouterr().err
    assert not (tmp_path / "net" / "model.safetensors").exists()
    assert ask(data, tmp_path / "net", *asked) == 0
    assert len(calls) == 3, "the first epoch was not made again"
    assert (tmp_path / "net" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == FILES


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "epochs=0"),
        (["--precision", "fp16"], "allowed are float32, bf16"),
        (["--input-scale", "log"], "allowed are raw, mean"),
        (["--patience", "0"], "patience=0"),
        (["--data", "no-such-folder"], "no-such-folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes(
    arguments: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(data, tmp_path / "net", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("retain: ") and error.count("\n") == 1
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("pairs", "changes", "said"),
    [
        ([], {}, "no samples that the model answered right"),
        (planted(3, groups=1), {}, "3 samples about 1 videos"),
        (planted(3), {"media": "sound"}, "allowed are video, image"),
        (planted(3), {"relevance": None}, "does not say model, media and relevance"),
    ],
    ids=["empty", "one group", "media", "no relevance"],
)
def test_training_sets_of_which_nothing_can_be_made(
    pairs: Any, changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(written(tmp_path / "data", pairs, **changes), tmp_path / "net") == 2
    assert said in capsys.readouterr().err
