"""Disks that are really full or read-only wherever a run writes: one sentence, status 2, nothing lost."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from harness.cli import main
from harness.compressor.state import State
from harness.disk import StoreError
from model_wrappers.compressor import Compressor
from model_wrappers.errors import UserError
from tests.faults.world import alone, disk, may_mount
from tests.sweep.conftest import write_experiment

pytestmark = pytest.mark.skipif(not may_mount(), reason="mounts need root or user namespaces")
ROWS = [{"method": "vanilla"}, {"method": "random", "keep": [0.5]}]
PAGE = 4096


def told(arguments: list[object]) -> tuple[int, str]:
    """Status of a command and what it said on standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    assert "Traceback" not in out.getvalue() + err.getvalue(), err.getvalue()
    return status, err.getvalue()


def sentence(err: str) -> str:
    """The mistake that was told, which is one line."""
    lines = [line for line in err.splitlines() if line.startswith("retain: ") and "torn line" not in line]
    assert len(lines) == 1, err
    return lines[0]


def lines(store: Path) -> dict[str, bytes]:
    found = {path.parent.name: path.read_bytes() for path in store.glob("cells/*/predictions.jsonl")}
    return {name: content[: content.rfind(b"\n") + 1] for name, content in found.items()}


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path, videos: Path) -> list[object]:
    path = write_experiment(tmp_path, checkpoint, ROWS, ("NExT-QA-MC",))
    options = ["--profile", "paper", "--data", videos, "--store", tmp_path / "runs"]
    return ["run", path, *options]


def test_a_disk_that_is_full_wherever_a_run_writes(tmp_path: Path, command: list[object]) -> None:
    """The disk has one page more each time, so that the run comes to the next place at which it is full."""
    store = tmp_path / "runs"
    store.mkdir()

    def grow() -> None:
        size, places, before = PAGE, set(), lines(store)
        disk(store, size)
        while True:
            status, err = told(command)
            now = lines(store)
            assert all(now[name].startswith(content) for name, content in before.items()), "an answer is lost"
            before = now
            if status == 0:
                break
            said = sentence(err)
            assert status == 2 and "the disk is full" in said, err
            places.update(re.findall(rf"{store}/(\w+)", said))
            size += PAGE
            disk(store, size, again=True)
        assert {"cells", "scores", "tables"} <= places, places  # the plan fits into the first page
        assert len(before) == 2 and all(content.count(b"\n") == 4 for content in before.values()), "asked twice"

    alone(grow)


def test_a_store_that_is_read_only_wherever_a_command_writes(tmp_path: Path, command: list[object]) -> None:
    store = tmp_path / "runs"
    store.mkdir()

    def refuse() -> None:
        disk(store, 1 << 24)
        assert told([*command, "--limit", 2])[0] == 0
        before = lines(store)
        disk(store, read_only=True, again=True)
        few = ["--limit", 2]
        for arguments in (
            command,
            [*command, *few],  # all is there but the table, which is written again
            ["leaderboard", *command[1:], *few],
        ):
            status, err = told(arguments)
            assert status == 2 and "the file system is read-only" in sentence(err), (arguments[0], err)
            assert str(store) in err
        assert told(["table", *command[1:], *few])[0] == 0, "what only reads goes on"
        assert lines(store) == before
        disk(store, again=True)
        assert told(command)[0] == 0
        assert all(content.startswith(before[name]) for name, content in lines(store).items())

    alone(refuse)


def test_what_safetensors_writes_is_refused_in_a_sentence_too(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def refuse() -> None:
        disk(folder, 2 * PAGE)
        net = Compressor("some-mllm", media="video", channels=(64, 64))
        optimiser = torch.optim.Adam(net.parameters())
        with pytest.raises(StoreError, match="cannot write .*out/state.*: the disk is full"):
            State(folder / "state.safetensors", {}).save(net, optimiser, [], {})
        assert list(folder.iterdir()) == []
        with pytest.raises(OSError, match="No space left"):
            net.save_pretrained(folder)

    alone(refuse)


def test_micro_data_that_cannot_be_written(tmp_path: Path) -> None:
    from harness.micro.editions import ensure

    folder = tmp_path / "data"
    folder.mkdir()

    def refuse() -> None:
        disk(folder, read_only=True)
        with pytest.raises(UserError, match="cannot write .*data/micro-.*: the file system is read-only"):
            ensure(folder)
        disk(folder, 16 * PAGE, again=True)
        with pytest.raises(UserError, match="the disk is full"):
            ensure(folder)
        assert list(folder.iterdir()) == [], "half of it would be taken for the whole"

    alone(refuse)
