"""`retain efficiency` on the command line: mistakes before a model is loaded, and the files it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.efficiency import measure
from harness.efficiency.report import add, read
from model_wrappers.errors import UserError


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was measured."""
    found: list[Any] = []
    monkeypatch.setattr(measure, "measure", found.append)
    return found


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--tokens"),
        (["--tokens", "many"], "invalid int value: 'many'"),
        (["--tokens", "1"], "--tokens 1: allowed are whole numbers from 2"),
        (["--tokens", "24", "--methods", "fastvv"], "unknown method 'fastvv'"),
        (["--tokens", "24", "--methods", "fastv:layers=2"], "no field 'layers'"),
        (["--tokens", "24", "--methods", "vanilla"], "--methods vanilla: it is measured in any case"),
        (["--tokens", "24", "--methods", "fastv:layer=9"], "fastv: layer=9, but the model has 6 layers"),
        (["--tokens", "24", "--keeps", "0.5", "1.5"], "keep=1.5"),
        (["--tokens", "24", "--keeps", "1"], "--keeps 1: vanilla"),
        (["--tokens", "24", "--repeats", "0"], "--repeats 0: allowed are whole numbers from 1"),
        (["--tokens", "24", "--decoded", "1"], "--decoded 1: allowed are whole numbers from 2"),
        (["--tokens", "24", "--layers", "2"], "--layers goes with --random-weights"),
        (["--tokens", "24", "--random-weights"], "the shape of"),
        (["--tokens", "24", "--media", "sound"], "invalid choice: 'sound'"),
        (["--tokens", "24", "--out", "out.txt"], "--out out.txt: the file of measurements ends in .json"),
        (["--tokens", "24", "--model", "Qwen3"], "Unknown model 'Qwen3'"),
        (["--tokens", "24", "--model", "Llama-3-VILA1.5-8b", "--random-weights"], "--tokens 24 cannot be made"),
        (["--tokens", "24", "--model", "Qwen2-VL-7B-Instruct"], "is not on this machine; --random-weights"),
    ],
)
def test_mistakes(
    arguments: list[str],
    part: str,
    folders: dict[str, Path],
    loads: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = [] if "--model" in arguments else ["--model", str(folders["qwen2_vl"])]
    assert main(["efficiency", *model, *arguments]) == 2
    said = capfd.readouterr().err
    assert part in said and "Traceback" not in said and not loads


def test_measurements_gather_in_one_file(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "mine.json"
    words = ["--media", "video", "--methods", "cnn", "fastv:layer=2", "--keeps", "0.25", "--repeats", "1"]
    words += ["--decoded", "2", "--out", str(out)]
    first = ["efficiency", "--model", str(folders["qwen2_vl"]), "--tokens", "24", *words]
    assert main(first) == 0
    shown = capsys.readouterr().out
    assert main(["efficiency", "--model", str(folders["vila"]), "--tokens", "32", *words]) == 0
    old = read(out)[0]
    assert main(first) == 0
    entries = read(out)
    assert [entry["model"] for entry in entries] == [str(folders["qwen2_vl"]), str(folders["vila"])]
    assert entries[0]["variants"] != old["variants"] and entries[0]["command"] == old["command"]
    assert entries[0]["machine"]["cpu"] and entries[0]["machine"]["versions"]["torch"]
    rows = [(each["label"], each["keep"], each["attention"]) for each in entries[0]["variants"]]
    assert rows == [
        ("Vanilla", 1.0, "sdpa"),
        ("CNN (learned)", 0.25, "sdpa"),
        ("FastV (layer=2)", 0.25, "sdpa"),
        ("Vanilla", 1.0, "eager"),
        ("FastV (layer=2, attention maps)", 0.25, "eager"),
    ]
    assert "**qwen2_vl: 24 visual tokens (video, 24 frames of 28 x 56 pixels)**" in shown
    assert f"retain efficiency --model {folders['qwen2_vl']} --tokens 24" in shown
    text = out.with_suffix(".md").read_text()
    assert text.count("**qwen2_vl") == text.count("**vila") == 1 and "▼ the row is slower" not in text
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert out.with_suffix(".svg").read_text().startswith("<?xml")
    assert sorted(path.suffix for path in out.parent.iterdir()) == [".json", ".md", ".png", ".svg"]


def test_random_weights_of_few_layers_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_shape: Any
) -> None:
    out = tmp_path / "random.json"
    words = ["--model", tiny_shape, "--random-weights", "--layers", "3", "--tokens", "24", "--methods", "cnn"]
    assert main(["efficiency", *words, "--repeats", "1", "--decoded", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"**{tiny_shape}, random weights, 3 of 6 layers: 24 visual tokens" in shown
    [entry] = read(out)
    assert entry["layers"] == {"language_model": 3, "of": 6}
    assert [len(each["visual_tokens_by_layer"]) for each in entry["variants"]] == [3] * 4


@pytest.fixture
def tiny_shape(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """A shape that a test can make: that of the tiny checkpoint."""
    from harness import published
    from harness.efficiency import shapes

    monkeypatch.setitem(published.CONFIGS, "nobody/tiny", json.loads((folders["qwen2_vl"] / "config.json").read_text()))
    monkeypatch.setitem(shapes._IDS, "tiny", "nobody/tiny")
    return "tiny"


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    assert read(path) == []
    for content in ("", "[]", '{"machine": {}}'):
        path.write_text(content)
        with pytest.raises(UserError, match="other.json is no file of `retain efficiency`"):
            read(path)


def test_only_the_same_measurement_is_replaced() -> None:
    entry = {"model": "a", "weights": "random", "layers": {}, "input": {"asked": 3}, "device": "CPU"}
    entry |= {"dtype": "float32", "attention": "sdpa", "variants": []}
    again = {**entry, "variants": [1]}
    assert add([entry], again) == [again]
    for name, value in (("device", "NVIDIA H100"), ("input", {"asked": 4}), ("weights", "checkpoint")):
        other = {**entry, name: value}
        assert add([entry], other) == [entry, other]


def test_micro_report_has_the_measurements(tmp_path: Path) -> None:
    """`retain micro report` puts the store's measurements beside the tables, and tells of them."""
    from harness.micro.report import write

    tables, data, out = tmp_path / "runs/tables", tmp_path / "data", tmp_path / "micro"
    tables.mkdir(parents=True)
    data.mkdir()
    (data / "manifest.json").write_text("{}")
    write({}, tables, data, out)
    assert "efficiency" not in (out / "README.md").read_text()
    for suffix in ("json", "md", "png", "svg"):
        (tables.parent / f"efficiency.{suffix}").write_text(json.dumps({"measurements": []}))
    write({}, tables, data, out)
    assert "[efficiency.md](efficiency.md)" in (out / "README.md").read_text()
    assert all((out / f"efficiency.{suffix}").is_file() for suffix in ("json", "md", "png"))
    shutil.rmtree(out)
