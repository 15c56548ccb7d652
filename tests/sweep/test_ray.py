"""A real Ray cluster of several nodes answers as one process does, also when a worker or a node is lost on the way."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import plan as plans
from harness import sweep
from harness.experiments import Experiment, load
from harness.plan import Data
from harness.store import Answer, Store
from harness.sweep import driver
from harness.sweep.cluster import ALONE, Cluster, connected
from harness.sweep.progress import Progress
from harness.sweep.shards import Pile, Shard
from model_wrappers.errors import UserError
from tests.faults.command import Run
from tests.sweep.conftest import write_experiment
from tests.sweep.counting_worker import NOTES, Counting
from tests.sweep.light_worker import Light, Seeing
from tests.sweep.lossy_worker import ASSERTION, BENCHMARK, INDEX, Lossy
from tests.sweep.test_kill import alive, lines, predictions

pytestmark = pytest.mark.long

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: vlm-retain[ray]")
Make = Callable[..., Experiment]
ANSWERS = 48
"""2 benchmarks of 4 samples, 6 cells each."""
ROOM = 8 << 30
"""Bytes of memory that a node says it has: a worker asks for 3 GiB, so that one core decides."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for workers. Nodes are added by the tests; none of them is the driver's."""
    folder = Path(tempfile.mkdtemp(prefix="r"))  # short: the paths of Ray's sockets lie under it
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
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def add(cluster: Any) -> Iterator[Callable[[], Any]]:
    """Adds a node of one core, or with other resources, until the end of the test."""
    added: list[Any] = []

    def one(num_cpus: int = 1, num_gpus: int = 0) -> Any:
        added.append(cluster.add_node(num_cpus=num_cpus, num_gpus=num_gpus, memory=ROOM, include_dashboard=False))
        return added[-1]

    yield one
    for node in added:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)
    cluster.wait_for_nodes()  # else the next test's workers would be hired where there is no node anymore


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


@pytest.fixture
def on_cluster(cluster: Any, experiment: Make, videos: Path, tmp_path: Path) -> OnCluster:
    """Answers the experiment there, with the store in `tmp_path`."""
    chosen = experiment()

    def run(**options: Any) -> sweep.SweepResult:
        return sweep.run(chosen, Store(tmp_path), data=Data(chosen, videos), **{"ray": cluster.address, **options})

    return run


Given = list[dict[object, str | None]]
OnCluster = Callable[..., sweep.SweepResult]


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
    on_cluster: OnCluster,
    tmp_path: Path,
    expected: Given,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(), add()
    progress = Spoiler(lambda: os.kill(answering(cluster), signal.SIGKILL))
    result = on_cluster(progress=progress)
    assert given(result, tmp_path) == expected
    assert (result.unfinished, result.failures, result.answered, progress.fresh) == ([], [], ANSWERS, ANSWERS)
    assert lost == ["its process was killed"]
    until = time.monotonic() + 20
    while workers(cluster) and time.monotonic() < until:
        time.sleep(0.05)  # Ray has been told and takes its time
    assert workers(cluster) == [], "no worker outlives the run"
    assert capsys.readouterr().out == "", "standard output is the table's"


@needs_ray
@pytest.mark.parametrize("count", [2, 3])
def test_nodes_of_which_one_is_lost(
    cluster: Any, add: Any, lost: list[str], on_cluster: OnCluster, tmp_path: Path, expected: Given, count: int
) -> None:
    nodes = {raylet(node): node for node in [add() for _ in range(count)]}

    def remove() -> None:
        cluster.remove_node(nodes[parent(answering(cluster))], allow_graceful=False)

    result = on_cluster(progress=Spoiler(remove))
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


@needs_ray
def test_a_killed_driver_leaves_the_cluster_to_the_next_whose_worker_opens_the_model_once(
    cluster: Any,
    add: Any,
    on_cluster: OnCluster,
    checkpoint: Path,
    videos: Path,
    tmp_path: Path,
    expected: Given,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For all shards, and encodes once each sample that lacks an answer."""
    add()
    path = write_experiment(tmp_path, checkpoint)
    options = ["--profile", "paper", "--data", videos, "--store", tmp_path, "--no-score", "--ray", cluster.address]
    run = Run(["run", path, *options], tmp_path / "log", variables=ALONE)
    try:
        run.wait_until(lambda: any(lines(tmp_path).values()))
        run.kill(tree=False)
    finally:
        run.end()
    before = {name: content[: content.rfind(b"\n") + 1] for name, content in lines(tmp_path).items()}
    answered = sum(content.count(b"\n") for content in before.values())
    assert 0 < answered < ANSWERS

    monkeypatch.setattr("harness.sweep.cluster.Worker", Counting)
    result = on_cluster()
    assert given(result, tmp_path) == expected and result.answered == ANSWERS - answered
    assert all(lines(tmp_path)[name].startswith(content) for name, content in before.items())
    processes, noted = zip(*(line.split() for line in (tmp_path / NOTES).read_text().splitlines()), strict=True)
    counted = Counter(noted)
    assert len({*processes}) == 1 and counted.pop("answer") > 2, "several shards"
    # A sample is answered by all of its cells before the next one begins.
    assert counted == {"open": 1, "share=1": 1, "start": 1, "encode": 8 - answered // 6}, "of 8 samples in 48 cells"


@needs_ray
def test_a_worker_that_lost_its_device_leaves_one_sample_to_the_next_run_and_the_others_to_another_worker(
    add: Any,
    lost: list[str],
    on_cluster: OnCluster,
    tmp_path: Path,
    expected: Given,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back: list[Shard] = []
    put_back = Pile.put_back

    def noted(self: Pile, shard: Shard) -> None:
        back.append(dataclasses.replace(shard, wanted=dict(shard.wanted)))
        put_back(self, shard)

    monkeypatch.setattr(Pile, "put_back", noted)
    monkeypatch.setattr("harness.sweep.cluster.Worker", Lossy)
    add()
    progress = Progress()
    result = on_cluster(progress=progress)
    reason = f"the device works no more after sample {INDEX} (AcceleratorError: {ASSERTION})"
    assert lost == [reason]
    (rest,) = back
    assert rest.benchmark == BENCHMARK and rest.wanted and INDEX not in rest.wanted, "the others are asked elsewhere"
    (left,) = result.unfinished
    assert (left.benchmark, left.reason) == (BENCHMARK, reason)
    (failure,) = result.failures
    assert (failure.benchmark, failure.index, failure.cells) == (BENCHMARK, INDEX, 1)
    assert (result.answered, progress.fresh) == (ANSWERS - 6, ANSWERS - 5), "of 6 cells one was asked"
    before = lines(tmp_path)
    again = on_cluster(ray=None, workers=1)
    assert again.answered == 6 and [dict(cell) for cell in predictions(again, tmp_path)] == expected
    after = lines(tmp_path)
    assert all(after[name].startswith(content) for name, content in before.items())
    assert sum(content.count(b"\n") for content in after.values()) == ANSWERS + 1, "one failed, none twice"


@needs_ray
def test_where_ray_goes_in_the_place_of_a_loopback_address(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the node's own address, where a cluster of this machine alone does not listen."""
    import ray

    monkeypatch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(ray._private.services, "get_node_ip_address", lambda *_: "127.0.0.2")
    port = cluster.address.rpartition(":")[2]
    told = f"^--ray {cluster.address}: Ray takes it for 127.0.0.2:{port}, and nobody answers there .*refused"
    with pytest.raises(UserError, match=told), connected(cluster.address):
        pass


def cell_answers(plan: plans.Plan, store: Store, group: tuple[str, str]) -> list[Answer]:
    return [answer for cell in plan.of(*group) for answer in store.cell(cell.settings).read().values()]


@needs_ray
def test_one_gpu_for_each_worker(
    cluster: Any, add: Any, experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node that says it has two, with 5 cores; there are none, and the workers need none."""
    import ray

    monkeypatch.setattr("harness.sweep.cluster.Worker", Seeing)
    chosen, store = experiment(), Store(tmp_path)
    plan = plans.make(chosen, Data(chosen, videos), store)
    on_gpus = dataclasses.replace(
        plan,
        cells=[dataclasses.replace(cell, settings={**cell.settings, "device": "cuda"}) for cell in plan.cells],
        samples={name: list(range(40)) for name in plan.samples},
    )
    ray.init(cluster.address, log_to_driver=False, logging_level="CRITICAL")
    try:
        without, gpus = (Cluster(each, videos, store.pictures) for each in (plan, on_gpus))
        with pytest.raises(UserError, match=r"^no node of the Ray cluster has a CPU core and 3\.0 GiB of memory for"):
            without.check()
        with pytest.raises(
            UserError, match="^this machine has a GPU and the Ray cluster none; start the command where"
        ):
            gpus.check()
        add(num_cpus=5, num_gpus=2)
        with pytest.raises(UserError, match="^the Ray cluster has GPUs and this machine none; start the command on a"):
            without.check()
        gpus.check()
        assert gpus.capacity() == 2
        tally = driver.answer(on_gpus, store, sweep.lacking(on_gpus, store), gpus, Progress())
        assert (tally.answered, tally.unfinished) == (2 * 40 * 6, [])
        groups = {(cell.model, cell.benchmark) for cell in plan.cells}
        answers = [answer for group in groups for answer in cell_answers(on_gpus, store, group)]
        assert {answer.prediction for answer in answers} == {"GPU 0, 2 cores", "GPU 1, 2 cores"}
    finally:
        ray.shutdown()
