"""`retain flops`: the table, the JSON, Python, shapes without weights, and each mistake in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from harness.cli import main
from harness.flops import PromptSize, count, paper, read, shape_of
from harness.flops.report import report, to_json, to_markdown
from model_wrappers import registry
from model_wrappers.registry import method
from tests.tiny import tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

LLAVA = "llava-onevision-qwen2-7b-ov-hf"
QWEN = ["--model", "Qwen2-VL-7B-Instruct", "--tokens", "1302"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["flops", *arguments])
    return status, *capsys.readouterr()


def test_help_and_counting_load_nothing_heavy() -> None:
    code = (
        "import sys; from harness.cli import main; assert main(['flops', '--help']) == 0; "
        f"assert main(['flops', *{QWEN}]) == 0; "
        "print([name for name in ('torch', 'transformers', 'vlmeval', 'pandas', 'numpy') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n") and "--tokens" in out and "| vanilla" in out


def test_the_table_names_both_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, *QWEN, "fastv", "cnn@0.4", "relevance", "--keep", "0.25")
    assert status == 0
    head, _, *body = [line for line in out.splitlines() if line.startswith("|")]
    columns = [part.strip() for part in head.split("|")[1:-1]]
    assert "TFLOPs (paper)" in columns and "TFLOPs (exact)" in columns
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in body]
    assert [row[:2] for row in rows] == [["vanilla", "100%"], ["fastv", "25%"], ["cnn", "40%"], ["relevance", "25%"]]
    assert rows[1][2:6] == ["3 x 1302, 25 x 326", "430.6", "23.5", "3.131"]
    assert rows[3][5:7] == ["-", "-"] and "No paper count of relevance" in out
    assert "- relevance depends on the prompt: counted where it is short enough" in out


def test_every_method_of_the_tables_has_an_exact_total(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["pyramiddrop", "sparsevlm", "divprune", "dart", "visionzip", "prunevid", "fastvid"]
    model = ["--model", LLAVA, "--media", "video", "--tokens", "6273", "--pictures", "32"]
    status, out, _ = said(capsys, *model, *names, "--keep", "0.25")
    assert status == 0 and "No exact total" not in out
    choosing = {line.split("|")[1].strip(): float(line.split("|")[-2]) for line in out.splitlines()[4:12]}
    assert set(choosing) == {"vanilla", *names}
    assert all(0.005 < choosing[name] < 0.5 for name in names), "of 120 TFLOPs"
    assert "sparsevlm depends on the prompt: counted where all text behind" in out


@pytest.mark.parametrize("given", [["--model", LLAVA, "--tokens", "1728", "--pictures", "3"], QWEN])
def test_a_method_that_is_not_defined_for_the_prompt_has_dashes(
    capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    """The tiles of an image are no frames."""
    names = ("fewer_frames", "prunevid", "fastvid")
    status, out, _ = said(capsys, *given, *names, "random", "--keep", "0.25")
    assert status == 0
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert {row[0]: set(row[2:]) == {"-"} for row in rows[3:]} == {**dict.fromkeys(names, True), "random": False}
    for name in names:
        assert f"- {name} (-): it is defined for video prompts only.\n" in out
    content = json.loads(said(capsys, *given, *names, "--keep", "0.25", "--json")[1])
    assert [line.get("lacking") for line in content["lines"]] == [None, *["it is defined for video prompts only"] * 3]
    assert "held" not in content["lines"][1]


def test_what_an_image_in_tiles_is_downsampled_to_needs_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    rest = ("downsample", "--model", LLAVA, "--keep", "0.5")
    status, out, _ = said(capsys, *rest, "--tokens", "1728", "--pictures", "3")
    row = [part.strip() for part in out.splitlines()[5].split("|")[1:-1]]
    assert status == 0 and row == ["downsample", "50%", *["-"] * 9]
    assert "- downsample (-): what is made of an image in tiles does not follow from 1728 visual tokens" in out
    status, out, _ = said(capsys, *rest, "--size", "384x512")
    row = [part.strip() for part in out.splitlines()[5].split("|")[1:-1]]
    assert status == 0 and row[:4] == ["downsample", "50%", "28 x 874", "874.0"] and "-" not in row
    assert f"**{LLAVA}: 1728 visual tokens of an image of 384 x 512 pixels in 3 pictures, 64 text tokens" in out


def test_json_holds_what_python_holds(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, *QWEN, "fastv:layer=2", "--keep", "0.5", "--json")
    assert status == 0
    content = json.loads(out)
    vanilla, fastv = content["lines"]
    shape = shape_of("Qwen/Qwen2-VL-7B-Instruct")
    found = count(shape, method("fastv", layer=2), 0.5, PromptSize(1302, 64, 64, response=8))
    assert (fastv["method"], fastv["fields"], fastv["keep"]) == ("fastv", {"layer": 2}, 0.5)
    assert fastv["held"] == list(found.held) == [1302, *[651] * 27]
    assert fastv["equivalent_tokens"] == fmean(found.held)
    assert fastv["flops"]["paper"] == found.paper == paper.language_model(found.held, shape.decoder)
    assert fastv["flops"]["exact"]["total"] == found.exact.total
    assert vanilla["kv_bytes"] == 1302 * 56 * 1024, (
        "56 KiB a token: 28 layers, 4 heads of 128, keys and values, 16 bits"
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--tokens", "5"], "Missing option '--model'"),
        (["--model", "nowhere", "--tokens", "5"], "unknown model 'nowhere': known are"),
        ([*QWEN, "fastvv"], "unknown method 'fastvv'"),
        ([*QWEN, "fastv:layer=29"], "fastv cuts at the input of layers [28], of 28 counted from 0"),
        ([*QWEN, "cnn", "--keep", "2"], "retain: --keep 2: allowed is a number above 0 and at most 1\n"),
        ([*QWEN, "--keep", "0.5", "--keep", "nan"], "retain: --keep nan: allowed is"),
        ([*QWEN, "--text", "-1"], "Invalid value for '--text'"),
        ([*QWEN, "--media", "text"], "Invalid value for '--media'"),
        (["--model", LLAVA], "retain: say how large the prompt is: --tokens, or --size of an image"),
        (["--model", LLAVA, "--size", "0x5"], "retain: --size 0x5: allowed are a height and a width in pixels"),
        (["--model", LLAVA, "--size", "9x5", "--tokens", "5"], "retain: --size 9x5 is an image's and tells its tokens"),
        ([*QWEN[:2], "--size", "9x5"], "retain: --size 9x5: Qwen2-VL-7B-Instruct lays no image out in tiles"),
        (
            ["--model", LLAVA, "--tokens", "1728"],
            "pictures=1 give 756 visual tokens at most",
        ),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    status, out, err = said(capsys, *arguments)
    assert status == 2 and part in err and out == ""


def test_a_silent_method_and_an_unknown_tower_have_no_exact_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import dataclass

    from model_wrappers.methods.base import Selector

    @dataclass(frozen=True)
    class Silent(Selector):
        name = "silent-about-its-cost"

    monkeypatch.setattr(registry, "_registered", {Silent.name: Silent})  # for this test alone
    text: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": 10}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "float32", **text}))
    found = report(str(tmp_path), PromptSize(6, 2, 2), [Silent.name], [0.5])
    one = found.lines[1].count
    assert one.held == (3, 3) and one.paper and one.exact.total is None and one.exact.scoring is None
    assert found.lines[0].count.kv_bytes == 6 * 2 * 2 * 8 * 4
    shown = to_markdown(found)
    assert "No exact total of silent-about-its-cost" in shown and "is of no family that is counted here" in shown
    assert json.loads(to_json(found))["lines"][1]["flops"]["exact"]["total"] is None


def test_a_published_layout_and_our_own_have_one_shape() -> None:
    assert read(tiny_vila(layout="hub")).decoder == read(tiny_vila()).decoder
    assert read(tiny_vila(layout="hub", patches=7)).tower == read(tiny_vila(patches=7)).tower
    for folder in (tiny_qwen2_vl(), tiny_llava_onevision()):
        assert read(folder).tower is not None and shape_of(str(folder / "config.json")) == read(folder)


def test_published_shapes_are_those_of_the_classes_defaults(tmp_path: Path) -> None:
    """A Qwen2-VL config that says no more than the published ones is read as the bundled shape."""
    from transformers import Qwen2VLConfig

    bundled = shape_of("Qwen/Qwen2-VL-7B-Instruct")
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    text |= {"num_key_value_heads": 4, "vocab_size": 152064}
    Qwen2VLConfig(text_config=text, vision_config={"hidden_size": 3584}, dtype="bfloat16").save_pretrained(tmp_path)
    assert read(tmp_path) == bundled


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"hidden_size": 8}', "config.json does not say num_attention_heads"),
        ('{"hidden_size": "8"}', "config.json: hidden_size is '8', allowed are whole numbers from 1"),
        ("{", "config.json cannot be read"),
        (None, "retain: FOLDER has no config.json\n"),
    ],
)
def test_a_config_that_does_not_say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None, part: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    status, out, err = said(capsys, "--model", str(tmp_path), "--tokens", "5")
    assert status == 2 and part.replace("FOLDER", str(tmp_path)) in err and out == ""
