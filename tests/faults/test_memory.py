"""Too little memory for one sample, and a device that fails for good: what is recorded, what goes on, what is kept."""

from __future__ import annotations

import json
import re
import signal
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import plan as plans
from harness.experiments import load
from harness.plan import Data
from harness.store import Store
from harness.sweep import answering, workers
from harness.sweep.device import is_out_of_memory, works
from harness.sweep.progress import Progress
from harness.sweep.remote import Worker
from harness.sweep.shards import Shard
from model_wrappers.errors import UserError
from tests.conftest import Said
from tests.faults.conftest import Model

ASSERTION = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


def of_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB")


def of_the_machine() -> None:
    torch.empty(1 << 50)


def answers(store: Path) -> list[dict[str, Any]]:
    """Every line, with the method and keep of its cell."""
    found = []
    for path in sorted(store.glob("cells/*/predictions.jsonl")):
        settings = json.loads((path.parent / "settings.json").read_text())
        about = {
            "cell": f"{settings['method']['name']}@{settings['keep']:g}",
            "benchmark": settings["benchmark"]["name"],
        }
        found += [{**about, **json.loads(line)} for line in path.read_text().splitlines()]
    return found


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [(of_the_gpu, "OutOfMemoryError: CUDA out of memory. Tried"), (of_the_machine, "can't allocate memory")],
)
def test_what_fits_of_a_sample_is_answered_and_only_the_rest_is_asked_again(
    said: Said, command: list[object], model: Model, tmp_path: Path, lacking: Callable[[], None], reason: str
) -> None:
    """The second sample's layers from the third on have room for half its visual tokens and not for all."""
    held: list[Any] = []
    lengths: list[int] = []

    def before_layer(number: int, hidden: torch.Tensor) -> None:
        if len(model.encoded) == 1:
            lengths.append(hidden.shape[1])
        elif len(model.encoded) == 2 and number == 3 and hidden.shape[1] >= max(lengths) - 4:
            ballast = torch.zeros(1000)  # held by this frame, and so by the traceback of what it raises
            held.append(weakref.ref(ballast))
            model.encoded[-1].cache["ballast"] = ballast
            lacking()

    def before_encoding() -> None:
        assert not any(each() is not None for each in held), "a failed answer still holds memory"

    model.before_layer, model.before_encoding = before_layer, before_encoding
    status, _, err = said(*command, "--limit", 2)
    assert status == 3 and len(held) >= 2
    given = answers(tmp_path / "runs")
    failed = [each for each in given if each["error"]]
    assert {each["cell"] for each in failed} == {"vanilla@1", "relevance@0.5", "relevance@0.25"}
    assert len(failed) == 3 and len({each["index"] for each in failed}) == 1
    assert all(reason in each["error"] and each["prediction"] is None for each in failed)
    assert len(given) == 24 and reason in err, "every other cell and sample was answered"
    model.before_layer = lambda number, hidden: None
    assert said(*command, "--limit", 2)[0] == 0
    again = answers(tmp_path / "runs")
    assert len(again) == 27 and [each for each in again if each in given] == given


def test_a_sample_too_large_for_the_vision_encoder_fails_alone(
    said: Said, command: list[object], model: Model, tmp_path: Path
) -> None:
    seen = []

    def before_encoding() -> None:
        seen.append(True)
        if len(seen) == 2:
            of_the_gpu()

    model.before_encoding = before_encoding
    status, _, err = said(*command)
    failed = [each for each in answers(tmp_path / "runs") if each["error"]]
    assert status == 3 and len(failed) == 6 and len({(each["benchmark"], each["index"]) for each in failed}) == 1
    assert len(answers(tmp_path / "runs")) == 48 and "OutOfMemoryError: CUDA out of memory" in err


def test_a_lost_device_fails_one_sample_and_leaves_the_others_to_the_next_run(
    said: Said, command: list[object], model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third sample's text always ends it, as an index out of range in a kernel would."""
    lost, poison = [], "sample 3"
    order: list[str] = []

    def before_layer(number: int, hidden: torch.Tensor) -> None:
        if lost or order[-1] == poison:
            lost.append(True)
            raise torch.AcceleratorError(ASSERTION)

    def before_encoding() -> None:
        order.append(f"sample {names.setdefault(current[-1], len(names) + 1)}")

    names: dict[tuple[str, Any], int] = {}
    current: list[tuple[str, Any]] = []
    ask = answering._Pass._ask

    def asking(self: Any, position: int, index: Any, *given: Any) -> None:
        current.append((self.benchmark, index))
        ask(self, position, index, *given)

    monkeypatch.setattr(answering._Pass, "_ask", asking)
    monkeypatch.setattr(answering, "works", lambda device: not lost)
    model.before_layer, model.before_encoding = before_layer, before_encoding
    status, _, err = said(*command)
    given = answers(tmp_path / "runs")
    assert status == 3 and order == ["sample 1", "sample 2", "sample 3"]
    assert [each["error"] for each in given if each["error"]] == [f"AcceleratorError: {' '.join(ASSERTION.split())}"]
    assert err.count("is unfinished: the device works no more after sample") == 2, err
    lost.clear()
    order.clear()
    status, _, err = said(*command)
    assert status == 3 and order == ["sample 4", "sample 3"], "what failed comes last"
    assert len([each for each in answers(tmp_path / "runs") if each["error"] is None]) == 18
    lost.clear()
    order.clear()
    assert said(*command)[0] == 3 and order == [*(f"sample {number}" for number in (5, 6, 7, 8)), "sample 3"]
    lost.clear()
    poison = "none"
    assert said(*command)[0] == 0
    assert len([each for each in answers(tmp_path / "runs") if each["error"] is None]) == 48


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[torch.Tensor]]:
    """No model can be opened: memory is out when a part of it is loaded. That part, each time."""
    loaded = []

    def load_model(*_: Any) -> None:
        part = torch.zeros(1000)
        loaded.append(weakref.ref(part))
        of_the_gpu()

    monkeypatch.setattr("model_wrappers.families.qwen2_vl.load_model", load_model)
    return loaded


def test_a_model_that_does_not_fit(
    said: Said, command: list[object], too_large: list[weakref.ref[torch.Tensor]]
) -> None:
    status, out, err = said(*command)
    assert (status, out) == (2, "") and len(too_large) == 1 and too_large[0]() is None
    (line,) = (line for line in err.splitlines() if "does not fit" in line)
    assert re.fullmatch(r"retain: \S+ does not fit: \d+\.\d GiB free on (cpu|cuda)", line)


@pytest.mark.usefixtures("too_large")
def test_a_worker_whose_model_does_not_fit(command: list[object], tmp_path: Path, videos: Path) -> None:
    """One of several processes, and one of Ray's, tell it as a mistake: their parents end with the sentence."""
    experiment, store = load(str(command[1]), "paper"), Store(tmp_path / "runs")
    plan = plans.make(experiment, Data(experiment, videos), store)
    group = (experiment.models[0], experiment.benchmarks[0])
    ours, theirs = Pipe()
    ours.send(group)
    before = signal.getsignal(signal.SIGINT)
    try:
        workers.work(theirs, plan, store.root, videos)
    finally:
        signal.signal(signal.SIGINT, before)
    crew = workers._Crew(plan, store, videos, {group: 24}, Progress())
    with pytest.raises(UserError, match="does not fit: "):
        crew.hear(workers._Worker(None, ours, group=group))  # type: ignore[arg-type]

    remote = Worker(plan, videos, None, "/nowhere", "this node", 1)
    remote._answerer = answering.Answerer(plan, remote.outbox, Data(experiment, videos), Progress())
    remote._abroad = lambda: "10.0.0.2"  # type: ignore[method-assign]
    *_, (kind, told) = remote.answer(Shard(*group, {}))
    assert kind == "mistake" and told.startswith("on the Ray node 10.0.0.2: ") and "does not fit: " in told


def test_a_worker_that_lost_its_device_leaves_its_groups_to_the_others(
    command: list[object], model: Model, tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[bool] = []

    def before_layer(number: int, hidden: torch.Tensor) -> None:
        lost.append(True)
        raise torch.AcceleratorError(ASSERTION)

    model.before_layer = before_layer
    monkeypatch.setattr(answering, "works", lambda device: not lost)
    experiment, store = load(str(command[1]), "paper"), Store(tmp_path / "runs")
    plan = plans.make(experiment, Data(experiment, videos), store)
    groups = [(experiment.models[0], benchmark) for benchmark in experiment.benchmarks]
    ours, theirs = Pipe()
    ours.send(groups[0])
    before = signal.getsignal(signal.SIGINT)
    try:
        workers.work(theirs, plan, store.root, videos)  # returns: it waits for no other group
    finally:
        signal.signal(signal.SIGINT, before)
    crew = workers._Crew(plan, store, videos, dict.fromkeys(groups, 24), Progress())
    worker = workers._Worker(None, ours, group=groups[0])  # type: ignore[arg-type]
    crew.pending.remove(groups[0])
    while worker.group:
        crew.hear(worker)
    (left,) = crew.tally.unfinished
    assert (left.model, left.benchmark) == groups[0] and "works no more after sample" in left.reason
    assert crew.pending == groups[1:] and len(crew.tally.failures) == 1


def test_what_is_told_from_what() -> None:
    assert works("cpu")
    assert not is_out_of_memory(RuntimeError("shapes do not fit")) and is_out_of_memory(MemoryError())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_real_gpu() -> None:
    """In a process of its own: its device is lost afterwards."""
    import subprocess
    import sys

    code = """
import torch
from harness.sweep.device import is_out_of_memory, release, works
try:
    torch.empty(1 << 50, device="cuda")
except RuntimeError as error:
    assert is_out_of_memory(error) and works("cuda")
    release(error)
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except RuntimeError as error:
    assert not is_out_of_memory(error) and not works("cuda") and not works("cuda:0")
    release(error)
    print("told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "told\n", done.stderr
