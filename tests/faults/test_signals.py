"""SIGTERM and the end of a terminal: as Ctrl-C, with all that is kept and no process left."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.signals import interrupting
from harness.sweep import progress
from tests.conftest import Said
from tests.faults.command import PATIENCE, Run
from tests.sweep.test_kill import alive, lines

pytestmark = pytest.mark.long


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["TERM", "HUP"])
def test_each_says_how_to_go_on(
    said: Said, command: list[object], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    class Stopped(progress.Progress):
        def advance(self, failed: bool = False) -> None:
            super().advance(failed)
            if self.fresh == 3:
                signal.raise_signal(number)

    before = signal.getsignal(number)
    monkeypatch.setattr(progress, "for_stream", Stopped)
    found, out, err = said(*command, "--limit", 1)
    assert found == status and out == "" and signal.getsignal(number) == before
    assert f"stopped; every answer given so far is kept. Go on with: retain {' '.join(map(str, command))}" in err
    monkeypatch.undo()
    found, _, err = said(*command, "--limit", 1)
    assert found == 0 and "12 answers, 3 of them there already" in err


def test_what_is_ignored_stays_ignored() -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupting() as ending:
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and ending.status == 130
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_to_the_parent_alone_ends_its_workers_too(command: list[object], tmp_path: Path, said: Said) -> None:
    store = tmp_path / "runs"
    run = Run([*command[:-1], 2], tmp_path / "log")
    try:
        run.wait_until(lambda: any(lines(store).values()))
        workers = run.workers()
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(120) == 143 and len(workers) >= 2
        assert not any(map(alive, workers))
    finally:
        run.end()
    told = run.log.read_text()
    assert "Traceback" not in told and told.count("stopped; every answer given so far is kept") == 1, told
    answered = sum(content.count(b"\n") for content in lines(store).values())
    assert 0 < answered < 48
    found, _, err = said(*command)
    assert found == 0 and f"48 answers, {answered} of them there already" in err


def test_a_terminal_that_is_closed(command: list[object], tmp_path: Path) -> None:
    """With a bar on it, which would be drawn there to the last."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *map(str, command)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling one
    )
    os.close(theirs)
    until = time.monotonic() + PATIENCE
    while not any(lines(tmp_path / "runs").values()):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    os.close(ours)
    assert process.wait(timeout=120) == 129
    assert all(content.endswith(b"\n") for content in lines(tmp_path / "runs").values() if content)
