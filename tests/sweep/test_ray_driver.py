"""The command with `--ray`: interrupted or killed, with or without a cluster there, with or without Ray."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from harness import sweep
from harness.cli import main
from harness.experiments import load
from harness.plan import Data
from harness.store import Store
from harness.sweep.cluster import connected
from model_wrappers.errors import UserError
from tests.faults.command import Run
from tests.sweep.conftest import write_experiment
from tests.sweep.test_kill import alive, children, lines, locked, predictions

pytestmark = pytest.mark.long

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: vlm-retain[ray]")
ANSWERS = 48
"""2 benchmarks of 4 samples, 6 cells each."""
AGENTS = "ray::(DashboardAgent|RuntimeEnvAgent)"
"""Processes of Ray's that give their dead head a minute before they end (measured: 60.3 s)."""


class Driver(Run):
    """The command on a cluster of this machine alone, until it has answered something more than the store has.

    `rays`: by process that it started, its name; `scratch`: the folder where they write.
    """

    def __init__(self, path: Path, videos: Path, store: Path, log: Path) -> None:
        before = count(lines(store))
        options = ["--profile", "paper", "--data", videos, "--store", store, "--no-score", "--ray", "auto"]
        # One core, one worker: its imports take the longest.
        super().__init__(["run", path, *options], log, core=max(os.sched_getaffinity(0)))
        self.wait_until(lambda: count(lines(store)) > before)
        self.rays = {each: Path(f"/proc/{each}/cmdline").read_text() for each in descendants(self.pid)}
        self.scratch = Path(re.findall(r"([^\0]*/ray-\w+)/session_", "".join(self.rays.values()))[0])

    def left(self, seconds: float, but: str = "none") -> list[str]:
        """The processes that live on after some seconds, `but` for those of such a name."""
        until = time.monotonic() + seconds
        while True:
            left = [name for each, name in self.rays.items() if alive(each) and not re.match(but, name)]
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.1)


def count(found: dict[str, bytes]) -> int:
    """The whole lines of the answers."""
    return sum(content.count(b"\n") for content in found.values())


@needs_ray
def test_kill_9_and_ctrl_c_leave_every_answer_and_no_process(tmp_path: Path, checkpoint: Path, videos: Path) -> None:
    """The same three times: killed, interrupted (SIGINT goes to the whole group of processes, as a terminal sends it),
    and left to its end, without Ray.
    """
    path, store = write_experiment(tmp_path, checkpoint), tmp_path / "runs"
    dead = Driver(path, videos, store, tmp_path / "log of the first")
    dead.kill(tree=False)
    assert dead.rays and dead.left(20, AGENTS) == []
    assert not locked(store)
    killed = lines(store)

    run = Driver(path, videos, store, tmp_path / "log of the second")
    os.killpg(run.pid, signal.SIGINT)
    status, said = run.wait(60), run.log.read_text()
    assert status == 130 and "Traceback" not in said, said
    assert said.count("stopped; every answer given so far is kept") == 1, said
    assert run.rays and run.left(20) == [] and not run.scratch.exists()
    assert not dead.scratch.exists(), "what the killed one could not remove"
    interrupted = lines(store)
    assert 0 < count(killed) < count(interrupted) < ANSWERS

    experiment = load(path, "paper")
    data = Data(experiment, videos)
    rest = sweep.run(experiment, Store(store), data=data, workers=1)
    assert (rest.answered, rest.failures, rest.unfinished) == (ANSWERS - count(interrupted), [], [])
    whole = lines(store)
    for earlier, later in ((killed, interrupted), (interrupted, whole)):
        assert all(later[name].startswith(content[: content.rfind(b"\n") + 1]) for name, content in earlier.items())
    assert {content.count(b"\n") for content in whole.values()} == {4}, "none lost, none twice"
    alone = sweep.run(experiment, Store(tmp_path / "alone"), data=data, workers=1)
    assert answers(rest, store) == answers(alone, tmp_path / "alone")


def answers(result: sweep.SweepResult, store: Path) -> list[dict[object, str | None]]:
    """By cell, the answer to each sample."""
    return [dict(cell) for cell in predictions(result, store)]


def descendants(process: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    found = children(process)
    return found + [each for child in found for each in descendants(child)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: nobody answers there (Connection refused)"),
        (["--ray", "ray://somewhere:10001"], "allowed are auto and HOST:PORT"),
        (["--ray", "auto", "--workers", "2"], "--workers is for processes of this machine"),
    ],
)
@needs_ray
def test_mistakes_are_told_before_anything_is_loaded(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "table3", *arguments]) == 2
    err = capfd.readouterr().err
    assert err.startswith("retain: ") and said in err and err.count("\n") == 1


@needs_ray
def test_a_server_that_is_none_of_rays_is_told_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        assert main(["run", "table3", "--ray", address]) == 2
    err = capfd.readouterr().err
    assert f"retain: --ray {address}: what answers there is no Ray cluster\n" in err and "Traceback" not in err


@needs_ray
def test_a_machine_that_is_no_node_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nodes of Ray's run on this machine, they are not to be seen."""
    import ray

    monkeypatch.setattr(ray._private.services, "find_gcs_addresses", frozenset)
    with pytest.raises(UserError, match="^--ray 127.0.0.1:1: this machine is no node of that cluster; start the comm"):
        with connected("127.0.0.1:1"):
            pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", "table3", "--ray", "auto"]) == 2
    assert capfd.readouterr().err == "retain: --ray needs the extra: pip install 'vlm-retain[ray]'\n"


def test_ray_is_loaded_only_to_be_used() -> None:
    code = "import sys, harness, harness.cli, harness.sweep.cluster, harness.sweep.driver; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
