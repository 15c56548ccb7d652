"""Plain mistakes are told before torch or VLMEvalKit is loaded, and leave no folder behind; so is a folder that cannot
be written to, before anything is measured or gathered.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.micro import families
from harness.micro.cli import MODELS
from tests.cli.test_cli import HEAVY
from tests.conftest import Said

MODEL = "micro-qwen2-vl"
COLLECT = ["compressor", "collect", "--data", "d", "--out", "o"]
MISTAKES = [
    (["efficiency", "--model", "nope", "--tokens", "64"], "Unknown model 'nope'"),
    (["efficiency", "--model", MODEL, "--tokens", "1"], "--tokens 1: allowed are whole numbers from 2"),
    (["efficiency", "--model", MODEL, "--tokens", "64", "--keeps", "2"], "keep"),
    (["efficiency", "--model", MODEL, "--tokens", "64", "--methods", "nope"], "nope"),
    (["efficiency", "--model", "x", "--tokens", "64", "--random-weights"], "the shape of 'x' is not known"),
    (["efficiency", "--model", MODEL, "--tokens", "64", "--out", "file/a.json"], "--out file: not a folder"),
    ([*COLLECT, "--model", MODEL, "--mix", "foo"], "--mix foo: allowed are video and image"),
    ([*COLLECT, "--model", "nope"], "Unknown model 'nope'"),
    (["micro", "train", "nope", "--out", "o"], f"no micro model 'nope'; known are {', '.join(MODELS)}"),
    (["micro", "teach", "nope", "--out", "o"], "no micro model 'nope'"),
    (["micro", "teach", MODEL, "--out", "o"], f"--out o: {MODEL} is not in it"),
    (["vlmeval"], "--model is missing: VLMEvalKit's runner needs --model and --data, or --config"),
    (["vlmeval", "--model", MODEL], "--data is missing"),
]
CODE = f"""
import io, json, os, sys
from contextlib import redirect_stderr
from harness.cli import main
os.chdir(sys.argv[2])
for arguments in json.loads(sys.argv[1]):
    with redirect_stderr(io.StringIO()) as err:
        status = main(arguments)
    print(json.dumps([status, err.getvalue(), [name for name in {HEAVY} if name in sys.modules]]))
"""


def test_mistakes_load_nothing_heavy_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = json.dumps([arguments for arguments, _ in MISTAKES])
    done = subprocess.run([sys.executable, "-c", CODE, asked, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (arguments, part), line in zip(MISTAKES, done.stdout.splitlines(), strict=True):
        status, err, loaded = json.loads(line)
        assert (status, loaded) == (2, []), (arguments, err, loaded)
        assert err.startswith("retain: ") and part in err and err.count("\n") == 1, (arguments, err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_micro_models_are_those_that_there_are() -> None:
    assert set(MODELS) == set(families.FAMILIES)


@pytest.mark.parametrize("command", ["leaderboard", "bench", "figure"])
def test_a_folder_that_cannot_be_written_to(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from harness import bench, cli, results
    from harness.leaderboard import command as board

    (tmp_path / "file").touch()
    for module in (cli, board):
        monkeypatch.setattr(module, "open_experiment", lambda *_: (None, None))
    monkeypatch.setattr(bench, "data_folder", lambda *_: tmp_path)
    monkeypatch.setattr(bench.relevance, "measure", lambda *_: pytest.fail("something was measured"))
    monkeypatch.setattr(results, "collect", lambda *_: pytest.fail("something was gathered"))
    place = {
        "leaderboard": ["table3", "--out", tmp_path / "file"],
        "bench": ["--out", tmp_path / "file" / "bench.json"],
        "figure": ["table3", "--store", tmp_path / "file"],
    }
    status, out, err = said(command, *place[command])
    assert (status, out) == (2, "") and f"{tmp_path / 'file'}: not a folder" in err
