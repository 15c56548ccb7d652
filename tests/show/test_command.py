"""`retain show` on the command line: one sentence for each mistake, before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.show import gather as gathering
from harness.show.request import KEEPS, Request, check
from tests.show.conftest import QUESTION
from tests.tiny import tiny_qwen2_vl


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were loaded."""
    found: list[Any] = []
    monkeypatch.setattr(gathering, "open_model", lambda *args, **settings: found.append(args))
    return found


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "neither is given"),
        (["--image", "IMAGE", "--video", "VIDEO"], "both are given"),
        (["--image", "nowhere.png"], "--image nowhere.png: there is no such file"),
        (["--video", "nowhere.mp4"], "--video nowhere.mp4: there is no such file"),
        (["--image", "."], "--image .: there is no such file"),
        (["--image", "TEXT"], "cannot be read as an image"),
        (["--image", "HALF"], "cannot be read as an image"),
        (["--image", "VIDEO"], "cannot be read as an image"),
        (["--video", "TEXT"], "cannot be read as a video"),
        (["--image", "IMAGE", "--keep", "0"], "--keep 0: allowed is a number above 0 and at most 1"),
        (["--image", "IMAGE", "--keep", "0.5", "1.5"], "--keep 1.5: allowed"),
        (["--image", "IMAGE", "--keep", "0.5", "--keep", "-1"], "--keep -1: allowed"),
        (["--image", "IMAGE", "--keep", "nan"], "--keep nan: allowed"),
        (["--image", "IMAGE", "--keep", "half"], "Invalid value for '--keep'"),
        (["--image", "IMAGE", "--frames", "4"], "--frames goes with --video"),
        (["--video", "VIDEO", "--frames", "0"], "--frames 0: allowed"),
        (["--image", "IMAGE", "--question", " "], "--question is empty"),
        (["--image", "IMAGE", "--model", "Qwen3"], "Unknown model 'Qwen3'"),
    ],
)
def test_mistakes(
    arguments: list[str],
    part: str,
    media: dict[str, Path],
    tmp_path: Path,
    loads: list[Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.png").write_text("not a picture " * 100)
    (tmp_path / "half.png").write_bytes(media["image"].read_bytes()[:-60])
    files = {"TEXT": tmp_path / "text.png", "HALF": tmp_path / "half.png"}
    files |= {kind.upper(): path for kind, path in media.items()}
    words = [str(files.get(word, word)) for word in arguments]
    given = ["--model", str(tiny_qwen2_vl()), "--question", QUESTION]
    for option in ("--model", "--question"):
        if option in words:
            del given[given.index(option) : given.index(option) + 2]
    status = main(["show", *given, *words, "--out", str(tmp_path / "out")])
    out, err = capfd.readouterr()
    assert status == 2 and part in err and out == "" and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("retain: ")]) <= 1
    assert loads == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_an_out_that_is_no_folder_is_told_before_a_model_is_opened(
    name: str, media: dict[str, Path], tmp_path: Path, loads: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    command = ["show", "--model", str(tiny_qwen2_vl()), "--image", str(media["image"]), "--question", QUESTION]
    assert main([*command, "--out", str(tmp_path / name)]) == 2
    out, err = capfd.readouterr()
    assert err == f"retain: --out {tmp_path / name}: not a folder\n" and out == "" and loads == []


@pytest.mark.parametrize("kind", ["image", "video"])
def test_from_the_command_to_the_files(
    kind: str,
    media: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(media[kind].parent)  # VLMEvalKit's Qwen2-VL finds no video by a relative path
    opened = gathering.open_model
    monkeypatch.setattr(gathering, "open_model", lambda name, **rest: opened(name, max_new_tokens=3, device="cpu"))
    command = ["show", "--model", str(tiny_qwen2_vl()), f"--{kind}", media[kind].name, "--question", "<script>?"]
    assert main([*command, "--keep", "0.5", "0.1", "--out", str(tmp_path / "out")]) == 0
    out, _ = capfd.readouterr()
    png, page = sorted((tmp_path / "out").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert out == f"Written: {png.with_suffix('')}.{{png,html}}\n"
    text = page.read_text("utf-8")
    assert "<script" not in text and "&lt;script&gt;?" in text and "50% kept" in text and "10% kept" in text


def test_the_request_is_told_as_a_command(media: dict[str, Path]) -> None:
    name = str(tiny_qwen2_vl())
    request = check(name, "it's $1?", None, media["video"], [0.5, 0.25, 0.5], 4)
    assert request == Request(name, "it's $1?", media["video"], "video", KEEPS, 4)
    told = f"retain show --model {name} --video {media['video']} --question 'it'\"'\"'s $1?' --frames 4"
    assert request.command == told
    assert check(name, "a", media["image"], None, [0.1, 1]).command.endswith("--question a --keep 0.1 --keep 1.0")
