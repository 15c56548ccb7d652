"""Decoding ahead of the model: the same inputs from a thread and from processes, and what becomes of killed ones."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import plan as plans
from harness import sweep
from harness.bench import waiting
from harness.experiments import Experiment
from harness.models import open_model
from harness.plan import Data, open_settings
from harness.store import ID_LENGTH, Index, Store, digest
from harness.sweep import decoding
from harness.sweep.answering import Answerer, Tally
from harness.sweep.decoding import Decoders, Decoding, processes
from harness.sweep.progress import Progress
from harness.sweep.remote import Outbox
from harness.sweep.shards import Shard
from model_wrappers.errors import SampleError
from tests.sweep.doomed import SLOW, Doomed
from tests.sweep.test_kill import alive, children
from tests.sweep.test_loops import MODELS

pytestmark = pytest.mark.long

Make = Callable[..., Experiment]


def messages(texts: list[str]) -> Callable[[int], list[dict[str, Any]]]:
    return lambda position: [{"type": "text", "value": texts[position]}]


def run(experiment: Experiment, data: Path, store: Path) -> Any:
    result = sweep.run(experiment, Store(store), data=Data(experiment, data))
    return result, [
        [(index, answer.prediction, answer.error) for index, answer in Store(store).cell(cell.settings).read().items()]
        for cell in result.cells
    ]


def test_where_processes_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    assert processes("cpu", 10_000) == 0
    assert processes("cuda:0", decoding.FEW - 1) == 0
    assert processes("cuda:0", decoding.FEW) == decoding.MOST
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes("cuda", 10_000) == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert processes("cuda", 10_000) == 0
    assert processes("cuda", 10_000, share=3) == 2, "a worker of Ray sees one of the GPUs"


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("family", MODELS)
def test_a_process_decodes_what_the_thread_does(experiment: Make, videos: Path, family: str) -> None:
    made, settings = MODELS[family]
    chosen = experiment(model=made(), settings=settings, benchmarks=("NExT-QA-MC",))
    model = open_model(chosen.models[0], **open_settings(chosen, chosen.models[0]))
    opened = Data(chosen, videos).open("NExT-QA-MC", 8)
    sweep.use_frames_of(model, opened.dataset)
    found = []
    for count in (0, 1):
        name = opened.dataset.dataset_name
        with (
            Decoders(count) as decoders,
            Decoding(model, lambda at: sweep.message_for(model, opened, at), name, decoders) as ahead,
        ):
            found.append([future.result() for _, future in ahead.ahead(range(4), int)])
    for here, there in zip(*found, strict=True):
        assert here.inputs.keys() == there.inputs.keys()
        assert (here.sample_id, here.media) == (there.sample_id, there.media)
        assert all(torch.equal(torch.as_tensor(here.inputs[key]), there.inputs[key]) for key in here.inputs)
        one, other = model.encode(here), model.encode(there)
        assert torch.equal(one.inputs_embeds, other.inputs_embeds)
        if (told := one.source().retell) is not None:
            assert list(told([(0, 2)])) == list(other.source().retell([(0, 2)]))


def test_order_errors_and_killed_processes(tmp_path: Path) -> None:
    texts = ["a", "once", "b", "wrong", "c", "always", "d", *"efghijk"]
    with Decoders(2) as decoders, Decoding(Doomed(tmp_path), messages(texts), "none", decoders) as ahead:
        found: dict[str, Any] = {}
        for at, future in ahead.ahead(range(len(texts)), int):
            found[texts[at]] = future.exception() or future.result()
        ours = children(os.getpid())
    assert list(found) == texts
    assert isinstance(found["wrong"], SampleError) and str(found["wrong"]) == "The text says wrong."
    assert isinstance(found["always"], SampleError)
    assert str(found["always"]) == "the process that decoded it was killed (SIGKILL), and so did the next"
    fine = {text: each for text, each in found.items() if text not in ("wrong", "always")}
    assert all(each[0] == text for text, each in fine.items())
    pids = {each[1] for each in fine.values()}
    assert os.getpid() not in pids and not any(map(alive, pids))
    assert pids & set(ours)


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("count", [0, 1])
def test_a_model_that_takes_longer_than_decoding_does_not_wait_for_it(tmp_path: Path, count: int) -> None:
    """It would wait 29% of the time if each sample were decoded when it is asked for."""
    with Decoders(count) as decoders, Decoding(Doomed(tmp_path), messages(["slow"] * 44), "none", decoders) as ahead:
        waits, works = waiting.waited(ahead, 40, lambda: time.sleep(2.5 * SLOW))
    assert works >= 40 * 2.5 * SLOW
    assert waits / (waits + works) < waiting.AIM


def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        texts = ["a", "forever", "b"]
        with Decoders(1) as decoders, Decoding(Doomed(tmp_path), messages(texts), "none", decoders) as ahead:
            for at, future in ahead.ahead(range(3), int):
                if at == 0:
                    pid = future.result()[1]
                    while not (tmp_path / "begun").exists():
                        time.sleep(0.01)
                    raise KeyboardInterrupt
    assert not alive(pid)


def test_a_process_goes_from_one_benchmark_to_the_next(tmp_path: Path) -> None:
    model, pids = Doomed(tmp_path), []
    with Decoders(1) as decoders:
        for dataset in ("one", "other", "other", "last"):
            with Decoding(model, messages(["a", "b"]), dataset, decoders) as ahead:
                found = [future.result() for _, future in ahead.ahead(range(2), int)]
            assert [(text, given) for text, _, given in found] == [("a", dataset), ("b", dataset)]
            pids += [pid for _, pid, _ in found]
            if dataset == "other" and len(pids) == 6:  # it need not be in the middle of a sample to be killed
                os.kill(pids[-1], signal.SIGKILL)
    assert len({*pids[:6]}) == 1 and len({*pids[6:]}) == 1 and pids[5] != pids[6]
    assert not any(map(alive, pids))


@pytest.mark.usefixtures("warm_workers")
def test_processes_stay_with_the_model_from_shard_to_shard(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = experiment(rows=[{"method": "vanilla"}])
    data = Data(chosen, videos)
    plan = plans.make(chosen, data, Store(tmp_path))
    cells = {cell.benchmark: digest(cell.settings)[:ID_LENGTH] for cell in plan.cells}
    shards = [("NExT-QA-MC", [0, 1]), ("NExT-QA-MC", [2, 3]), ("MVBench", [0, 1, 2, 3])]
    started: list[Any] = []
    start = decoding._Decoder.start

    def noted(self: Any, made: bytes) -> None:
        start(self, made)
        started.append(self._process)

    def answers() -> list[tuple[str, Index, str | None]]:
        outbox, tally = Outbox(), Tally()
        with Answerer(plan, outbox, data, Progress()) as answerer:
            for benchmark, indices in shards:
                outbox.shard = Shard(chosen.models[0], benchmark, {index: (cells[benchmark],) for index in indices})
                answerer.answer(chosen.models[0], benchmark, tally)
            assert all(process.is_alive() for process in started)
        assert (tally.answered, tally.failures) == (8, [])
        return [(cell, answer.index, answer.prediction) for cell, answer in outbox.take()]

    monkeypatch.setattr(decoding._Decoder, "start", noted)
    thread = answers()
    assert not started
    monkeypatch.setattr("harness.sweep.answering.processes", lambda device, samples, share: 1)
    assert answers() == thread
    assert len(started) == 1 and not started[0].is_alive()


@pytest.mark.usefixtures("warm_workers")
def test_the_sweep_answers_alike(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a decoder killed in the middle too."""
    rows = [{"method": "vanilla"}, {"method": "random", "keep": [0.5]}]
    chosen = experiment(benchmarks=("NExT-QA-MC",), rows=rows)
    _, thread = run(chosen, videos, tmp_path / "thread")
    monkeypatch.setattr("harness.sweep.answering.processes", lambda device, samples, share: 1)
    real, killed = decoding._Decoder.decode, []

    def decode(self: Any, message: Any) -> Any:
        found = real(self, message)
        if not killed:
            killed.append(self._process.pid)
            self._process.kill()
            self._process.join()
        return found

    monkeypatch.setattr(decoding._Decoder, "decode", decode)
    result, there = run(chosen, videos, tmp_path / "processes")
    assert there == thread and result.failures == [] and result.answered == 8
    assert killed and not any(map(alive, killed))
