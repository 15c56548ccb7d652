"""A real Ray cluster of several nodes answers as one process does, also when a worker or a node is lost on the way."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness import plan as plans
from harness import sweep
from harness.cli import main
from harness.experiments import Experiment, load
from harness.plan import Data
from harness.store import Answer, Store
from harness.sweep import driver
from harness.sweep.cluster import ALONE, Cluster
from harness.sweep.progress import Progress
from tests.sweep.conftest import write_experiment
from tests.sweep.light_worker import Light
from tests.sweep.test_kill import alive, children, lines, predictions

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: vlm-retain[ray]")
Make = Callable[..., Experiment]
ANSWERS = 48
"""2 benchmarks of 4 samples, 6 cells each."""
ROOM = 8 << 30
"""Bytes of memory that a node says it has: a worker asks for 3 GiB, so that one core decides."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without room for workers. Nodes are added by the tests; none of them is the driver's."""
    folder = tmp_path_factory.mktemp("r")  # short: the paths of Ray's sockets lie under it
    (folder / "ray").mkdir()  # where Ray notes the address
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ALONE, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else this machine does must not end a worker
        patch.setenv("RAY_health_check_period_ms", "500")
        from ray.cluster_utils import Cluster as Nodes

        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(folder), "memory": ROOM}
        nodes = Nodes(initialize_head=True, head_node_args=head)
        try:
            yield nodes
        finally:
            nodes.shutdown()


@pytest.fixture
def add(cluster: Any) -> Iterator[Callable[[], Any]]:
    """Adds a node of one core, until the end of the test."""
    added: list[Any] = []

    def one() -> Any:
        added.append(cluster.add_node(num_cpus=1, memory=ROOM, include_dashboard=False))
        return added[-1]

    yield one
    for node in added:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why each worker that the driver lost ended."""
    causes: list[str] = []
    before = driver._Crew._lost

    def noted(self: Any, worker: Any, error: Exception) -> None:
        causes.append(driver._cause(error))
        before(self, worker, error)

    monkeypatch.setattr(driver._Crew, "_lost", noted)
    return causes


Given = list[dict[object, str | None]]


def given(result: sweep.SweepResult, store: Path) -> Given:
    """By cell, the answer to each sample; each of them in one line of its own."""
    assert [content.count(b"\n") for content in lines(store).values()] == [4] * 12
    return [dict(cell) for cell in predictions(result, store)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, videos: Path) -> Given:
    """What a single process answers."""
    folder = tmp_path_factory.mktemp("alone")
    experiment = load(write_experiment(folder, checkpoint), "paper")
    return given(sweep.run(experiment, Store(folder), data=Data(experiment, videos), workers=1), folder)


class Spoiler(Progress):
    """Does something once, at the first answer."""

    def __init__(self, harm: Callable[[], object]) -> None:
        super().__init__()
        self.harm = harm

    def advance(self, failed: bool = False) -> None:
        super().advance(failed)
        if self.fresh == 1:
            self.harm()


def raylet(node: Any) -> int:
    """The process that starts the workers of a node."""
    return node.all_processes["raylet"][0].process.pid


def workers(cluster: Any, title: str = "Worker") -> list[int]:
    """The processes of a cluster that bear such a title."""
    found, raylets = [], [raylet(node) for node in cluster.worker_nodes]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        process = int(path.parent.name)
        if said.startswith(f"ray::{title}") and alive(process) and parent(process) in raylets:
            found.append(process)
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def answering(cluster: Any) -> int:
    """The worker that answers, or did until a moment ago."""
    return (workers(cluster, "Worker.answer") or workers(cluster))[0]


@needs_ray
def test_two_nodes_answer_as_one_process_though_a_worker_is_killed(
    cluster: Any,
    add: Any,
    lost: list[str],
    experiment: Make,
    videos: Path,
    tmp_path: Path,
    expected: Given,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(), add()
    progress = Spoiler(lambda: os.kill(answering(cluster), signal.SIGKILL))
    chosen, store = experiment(), Store(tmp_path)
    result = sweep.run(chosen, store, data=Data(chosen, videos), ray=cluster.address, progress=progress)
    assert given(result, tmp_path) == expected
    assert (result.unfinished, result.failures, result.answered, progress.fresh) == ([], [], ANSWERS, ANSWERS)
    assert lost == ["its process was killed"]
    assert workers(cluster) == [], "no worker outlives the run"
    assert capsys.readouterr().out == "", "standard output is the table's"


@needs_ray
def test_three_nodes_of_which_one_is_lost(
    cluster: Any, add: Any, lost: list[str], experiment: Make, videos: Path, tmp_path: Path, expected: Given
) -> None:
    nodes = {raylet(node): node for node in (add(), add(), add())}

    def remove() -> None:
        cluster.remove_node(nodes[parent(answering(cluster))], allow_graceful=False)

    chosen, store = experiment(), Store(tmp_path)
    result = sweep.run(chosen, store, data=Data(chosen, videos), ray=cluster.address, progress=Spoiler(remove))
    assert given(result, tmp_path) == expected
    assert (result.unfinished, result.failures, result.answered) == ([], [], ANSWERS)
    assert lost


class LightCluster(Cluster):
    deadly: set[int] = set()

    def hire(self) -> Any:
        import ray

        return ray.remote(num_cpus=1)(Light).remote(self.deadly)


@needs_ray
def test_samples_that_end_every_worker_are_given_up_and_the_run_goes_on(
    cluster: Any, add: Any, experiment: Make, videos: Path, tmp_path: Path
) -> None:
    import ray

    add(), add()
    chosen, store = experiment(), Store(tmp_path)
    plan = plans.make(chosen, Data(chosen, videos), store)
    plan = dataclasses.replace(plan, samples={name: list(range(40)) for name in plan.samples})
    todo = sweep.lacking(plan, store)
    ray.init(cluster.address, log_to_driver=False, logging_level="CRITICAL")
    try:
        light = LightCluster(plan, videos)
        light.deadly = {13}
        tally = driver.answer(plan, store, todo, light, Progress())
        found = {group: len({a.index for a in cell_answers(plan, store, group)}) for group in todo}
        assert len(tally.unfinished) == len(todo) == 2, "in both benchmarks"
        for each in tally.unfinished:
            assert each.reason.startswith("3 workers ended, one after the other, in the middle of samples 13")
            assert each.reason.endswith("the last because its process was killed")
            assert 30 < found[each.model, each.benchmark] < 40
        light.deadly = set()
        again = driver.answer(plan, store, sweep.lacking(plan, store), light, Progress())
        assert again.unfinished == [] and again.answered + tally.answered == 2 * 40 * 6
        assert {content.count(b"\n") for content in lines(tmp_path).values()} == {40}, "none twice"
    finally:
        ray.shutdown()


def cell_answers(plan: plans.Plan, store: Store, group: tuple[str, str]) -> list[Answer]:
    return [answer for cell in plan.of(*group) for answer in store.cell(cell.settings).read().values()]


@needs_ray
def test_interrupted_on_a_cluster_of_this_machine_alone(tmp_path: Path, checkpoint: Path, videos: Path) -> None:
    """SIGINT goes to the whole group of processes, as a terminal sends it."""
    path, store = write_experiment(tmp_path, checkpoint), tmp_path / "runs"
    command = [sys.executable, "-m", "harness.cli", "run", str(path), "--profile", "paper", "--ray", "auto"]
    process = subprocess.Popen(
        [*command, "--data", str(videos), "--store", str(store), "--no-score"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 240
    while not any(lines(store).values()) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    rays = descendants(process.pid)
    commands = "".join(Path(f"/proc/{each}/cmdline").read_text() for each in rays)
    scratch = re.findall(r"([^\0]*/ray-\w+)/session_", commands)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err and err.count(b"stopped; every answer given so far is kept") == 1, err.decode()
    until = time.monotonic() + 10
    while (left := [each for each in rays if alive(each)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert rays and left == []
    assert scratch and not Path(scratch[0]).exists()
    answered = sum(content.count(b"\n") for content in lines(store).values())
    assert 0 < answered < ANSWERS
    experiment = load(path, "paper")
    rest = sweep.run(experiment, Store(store), data=Data(experiment, videos), workers=1)
    assert rest.answered == ANSWERS - answered


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


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", "table3", "--ray", "auto"]) == 2
    assert capfd.readouterr().err == "retain: --ray needs the extra: pip install 'vlm-retain[ray]'\n"


def test_ray_is_loaded_only_to_be_used() -> None:
    code = "import sys, harness, harness.cli, harness.sweep.cluster, harness.sweep.driver; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
