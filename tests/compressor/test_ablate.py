"""The ablations: which compressors each trains, one table for all models, and what is there is not made again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.compressor import ablate, recipe
from harness.compressor import taught as taught_by
from harness.compressor.dataset import Pair
from tests.compressor.made import manifest, planted, written

PAIRS = planted(40, lengths=(6, 9))
RELEVANCE = manifest()["relevance"]


def ask(name: str, out: Path, *folders: Path, epochs: int = 1) -> int:
    given = [word for folder in folders for word in ("--data", f"{folder}")]
    return main(["compressor", "ablate", name, *given, "--out", f"{out}", "--epochs", f"{epochs}"])


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((out / f"{name}.json").read_text())["rows"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sets") / "samples", PAIRS)


def taught(folder: Path, pairs: list[Pair] = PAIRS, **options: Any) -> Path:
    """A training set of another kind of relevance."""
    return written(folder, pairs, relevance={**RELEVANCE, **options})


@pytest.mark.parametrize(
    ("name", "variants", "parameters"),
    [
        ("depth", ["1 layer", *(f"{depth} layers" for depth in range(2, 8))], [None, None, None, None, 177_541]),
        ("kernel", ["kernel 1", "kernel 3", "kernel 5", "kernel 7"], [176_579, 177_541]),
        ("channels", ["8-16-32-64-128", "16-32-64-128-256", "32-64-128-256-512", "64-128-256-512-1024"], []),
        ("zeroed", ["0% zeroed", "25% zeroed", "50% zeroed", "75% zeroed"], [177_541]),
    ],
)
def test_variants_of_one_set(
    name: str, variants: list[str], parameters: list[int | None], data: Path, tmp_path: Path
) -> None:
    assert ask(name, tmp_path, data) == 0
    rows = rows_of(tmp_path, name)
    assert [row["variant"] for row in rows] == variants
    for row, count in zip(rows, parameters, strict=False):
        assert count is None or row["parameters"] == count
    assert len({json.dumps(row["held_out"]["scores"]["cnn"]) for row in rows}) == len(rows), "they do differ"
    assert len({json.dumps(row["held_out"]["scores"]["random"]) for row in rows}) == 1, "on the same held-out samples"
    lines = [line for line in (tmp_path / f"{name}.md").read_text().splitlines() if line.startswith("| some-mllm")]
    assert [line.split("|")[3].strip() for line in lines] == [*variants, "first_layer_attention", "random"]


def test_a_recipe_is_epochs_and_the_inputs_scale(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has no part in the key of what another ablation trained: its rows stay."""
    monkeypatch.setattr(recipe, "EPOCHS", (1, 2))
    assert ask("recipe", tmp_path, data, epochs=7) == 0
    rows = rows_of(tmp_path, "recipe")
    told = [f"input {scale}, {epochs} epochs" for scale in ("raw", "mean") for epochs in (1, 2)]
    assert [row["variant"] for row in rows] == told
    assert [row["epochs"] for row in rows] == [1, 2, 1, 2], "whatever --epochs says"
    assert len({json.dumps(row["held_out"]["scores"]["cnn"]) for row in rows}) == 4, "they do differ"
    lines = [line for line in (tmp_path / "recipe.md").read_text().splitlines() if line.startswith("| some-mllm")]
    assert [line.split("|")[3].strip() for line in lines] == [*told, "first_layer_attention", "random"]
    assert "harness.compressor.recipe" not in ablate.CODE


def test_sizes_take_as_many_steps(data: Path, tmp_path: Path) -> None:
    assert ask("size", tmp_path, data) == 0
    rows = rows_of(tmp_path, "size")
    whole = rows[-1]["trained_on"]
    assert [row["trained_on"] for row in rows] == [whole // 8, whole // 4, whole // 2, whole]
    assert [row["epochs"] for row in rows] == [8, 4, 2, 1]


def test_trained_on_short_tested_on_long(tmp_path: Path, data: Path) -> None:
    long = written(tmp_path / "long", planted(40, lengths=(30, 30), seed=1))
    assert ask("length", tmp_path, long, data) == 0
    rows = rows_of(tmp_path, "length")
    assert len(rows) == 6
    for scale, three in (("raw", rows[:3]), ("mean", rows[3:])):
        assert [row["variant"].partition(",")[0] for row in three] == [f"input {scale}"] * 3
        lengths = [row["held_out"]["visual_tokens"] for row in three]
        assert lengths[0][1] < 10 and lengths[1:] == [[30, 30]] * 2
        assert three[0]["variant"] == three[1]["variant"] != three[2]["variant"]
        assert three[1]["held_out"]["scores"]["random"] == three[2]["held_out"]["scores"]["random"]


@pytest.mark.parametrize(
    ("name", "values"), [("target", ["margin", "logit"]), ("clamp", [False, True]), ("head_weights", ["mean", "grad"])]
)
def test_teachers(name: str, values: list[Any], tmp_path: Path) -> None:
    turned = [replace(pair, relevance=pair.relevance.flip(0) - 1e-5) for pair in PAIRS]
    folders = [
        taught(tmp_path / f"{value}", pairs, **{name: value})
        for value, pairs in zip(values, (turned, PAIRS), strict=True)
    ]
    manifest = folders[0] / "dataset.json"  # what was there to refuse may have grown between two runs of `collect`
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "test_splits": ["MVBench"]}))
    assert ask(name, tmp_path / "out", *folders) == 0
    rows = rows_of(tmp_path / "out", name)
    assert [row["variant"] for row in rows] == [f"{name} {value}" for value in reversed(values)], "the default first"
    attention = [row["held_out"]["scores"]["first_layer_attention"]["overlap@0.5"] for row in rows]
    assert attention[0] != attention[1], "each against its own relevance"
    (agreed,) = json.loads((tmp_path / "out" / f"{name}.json").read_text())["relevance"]
    assert 0 < agreed["overlap@0.5"] < 1
    assert f"{name} {values[0]} and {name} {values[1]} agree in" in (tmp_path / "out" / f"{name}.md").read_text()


def test_several_models_are_one_table(data: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other", planted(30, seed=3, lengths=(5, 8)), mllm="other-mllm", media="image")
    assert ask("kernel", tmp_path / "out", data, other) == 0
    rows = rows_of(tmp_path / "out", "kernel")
    assert [(row["mllm"], row["media"]) for row in rows] == [("some-mllm", "video")] * 4 + [("other-mllm", "image")] * 4


def test_what_is_there_is_not_made_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, trainings = ablate.fit, []

    def stopped(*arguments: Any, **settings: Any) -> Any:
        trainings.append(arguments[2])
        if len(trainings) == 3:
            raise KeyboardInterrupt
        return inner(*arguments, **settings)

    monkeypatch.setattr(ablate, "fit", stopped)
    assert ask("kernel", tmp_path, data) == 130
    assert ask("kernel", tmp_path, data) == 0
    assert len(trainings) == 5
    before = (tmp_path / "kernel.md").read_bytes()
    assert ask("kernel", tmp_path, data) == 0
    assert len(trainings) == 5 and (tmp_path / "kernel.md").read_bytes() == before
    assert ask("kernel", tmp_path, data, epochs=2) == 0
    assert len(trainings) == 9, "other settings are other rows"


def test_mistakes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = taught(tmp_path / "again", seed=4)
    margin = taught(tmp_path / "margin", target="margin", clamp=False)
    for name, folders, said in [
        ("breadth", [data], "known are depth, kernel"),
        ("depth", [data, again], "takes 1 training sets"),
        ("target", [data], "takes 2 to 3 training sets"),
        ("length", [data, again], "visual tokens of different number"),
        ("target", [data, taught(tmp_path / "same")], "each must differ"),
        ("target", [data, margin], "collected with another clamp"),
        ("depth", [tmp_path / "no"], "there is no folder"),
    ]:
        assert ask(name, tmp_path / "out", *folders) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kernel.json").write_text("[]")
    assert ask("kernel", tmp_path / "out", data) == 2
    assert "no table of an ablation" in capsys.readouterr().err


def test_the_command_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compressor", "ablate", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in [*ablate.KNOWN, taught_by.NAME])
