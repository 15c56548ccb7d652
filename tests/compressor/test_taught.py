"""Compressors by their teachers: from training sets to a table of what their answers are worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness import experiments
from harness.compressor import publish, taught
from harness.compressor.train import Settings
from harness.micro import editions, image_editions
from tests.compressor.made import manifest, planted, written
from tests.conftest import Said

PAIRS = planted(24, lengths=(6, 9))
KINDS = ({}, {"target": "margin"}, {"clamp": False}, {"head_weights": "mean"})
ASKED = "NExT-QA-OE"
QWEN, VILA = "micro-qwen2-vl", "micro-vila"
Written = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Written:
    """Makes training sets: of a model, with relevance of a kind."""

    def make(model: str = QWEN, media: str = "video", **kind: Any) -> Path:
        folder = tmp_path / "sets" / "-".join(map(str, [model, media, *kind.values()]))
        pairs = PAIRS if not kind else [replace(pair, relevance=pair.relevance.flip(0)) for pair in PAIRS]
        return written(folder, pairs, mllm=model, media=media, relevance={**manifest()["relevance"], **kind})

    return make


def test_one_command_from_sets_to_a_table(made: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sample of one benchmark, by the real models. Each row answers by its own model's own compressor."""
    monkeypatch.chdir(tmp_path)
    like = experiments.load("table3").model_copy(update={"benchmarks": [ASKED]})
    monkeypatch.setattr(editions, "WRITERS", {ASKED: editions.WRITERS[ASKED]})  # no other data is made
    monkeypatch.setattr(image_editions, "FORMATS", {})
    monkeypatch.setattr(taught.cli, "run", partial(taught.cli.run, workers=1))
    monkeypatch.setattr(taught.experiments, "load", _first(like, taught.experiments.load))
    sets = [made(model, **kind) for kind in KINDS[:2] for model in (VILA, QWEN)]
    out = tmp_path / "out"
    table = taught.run(sets, out, Settings(epochs=1), "the command", limit=1)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"taught{end}" for end in (".yaml", *taught.KEPT))
    text = table.read_text()
    floors = ("First-layer attention", "Downsample", "Random (3 seeds)")
    for row in ("CNN taught by the logit", "CNN taught by the margin", *floors):
        assert text.partition("\n\n- ")[0].count(f"| {row} ") >= 2, "one of each model"
    sources = json.loads((out / "taught.sources.json").read_text())
    assert "commit" in sources
    rows = [row for row in sources["rows"] if row["method"] == "cnn"]
    assert [row["model"] for row in rows] == [QWEN] * 2 + [VILA] * 2, "in the order of the tables"
    named = set()
    for row in rows:
        (cell,) = row["cells"].values()
        method = json.loads((Path("results/runs/cells") / cell["cell"] / "settings.json").read_text())["method"]
        named.add(method["fields"]["compressor"])
        assert json.loads((Path(method["fields"]["compressor"]) / "config.json").read_text())["mllm"] == row["model"]
    place = "results/runs/compressors/taught"
    assert named == {f"{place}/{model}/{teacher}" for model in (QWEN, VILA) for teacher in ("logit", "margin")}
    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(publish, "fit", lambda *_, **__: pytest.fail("trained again"))
    taught.run(sets, out, Settings(epochs=1), "the command", limit=1)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def _first(like: experiments.Experiment, load: Callable[..., Any]) -> Callable[..., Any]:
    return lambda name, *rest, **options: like if name == "table3" and not rest else load(name, *rest, **options)


def test_the_command_trains_and_runs_what_it_wrote(
    made: Written, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained, ran = [], []
    monkeypatch.setattr(publish, "make", lambda pairs, settings, out, **_: trained.append((settings, str(out))))

    def run(path: str, limit: int | None, store: Path) -> None:
        ran.append((path, limit))
        (store / "tables").mkdir(parents=True)
        for suffix in taught.KEPT:
            (store / "tables" / f"taught{suffix}").write_text(suffix)

    monkeypatch.setattr(taught.cli, "run", run)
    words = [word for kind in KINDS for word in ("--data", made(**kind))]
    status, out, err = said("compressor", "ablate", "taught", *words, "--out", "out", "--input-scale", "mean")
    assert status == 0 and out == "Written: out/taught.{yaml,md,csv,sources.json}\n", err
    assert ran == [("out/taught.yaml", None)]
    names = ["logit", "margin", "logit-no-clamp", "logit-mean"]
    assert [place.rpartition("/")[2] for _, place in trained] == names
    assert all(settings.input_scale == "mean" for settings, _ in trained)
    chosen = experiments.load("out/taught.yaml")
    assert chosen.benchmarks == experiments.load("table3").benchmarks
    assert [row.label for row in chosen.rows if row.method == "cnn"] == [
        "CNN taught by the logit",
        "CNN taught by the margin",
        "CNN taught by the logit, not clamped",
        "CNN taught by the mean of heads, no gradient",
    ]
    assert "--data" in Path("out/taught.yaml").read_text().splitlines()[0]


def test_mistakes(made: Written, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "make", lambda *_, **__: pytest.fail("trained before"))
    again = written(tmp_path / "again", PAIRS, mllm=QWEN)
    for sets, part in [
        ([made("some-mllm")], "is of some-mllm on videos, allowed are videos and micro-llava-onevision"),
        ([made(media="image")], "is of micro-qwen2-vl on images"),
        ([made(), again], "are of the same model and relevance"),
        ([made(), made(target="margin"), made(VILA)], "no training set (--data) of micro-vila and teacher margin"),
    ]:
        words = [word for folder in sets for word in ("--data", folder)]
        status, out, err = said("compressor", "ablate", "taught", *words, "--out", tmp_path / "out")
        assert status == 2 and part in err and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "out").exists()
