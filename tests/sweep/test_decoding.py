"""Decoding ahead of the model: the same inputs from a thread and from processes, and what becomes of killed ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import sweep
from harness.experiments import Experiment
from harness.models import open_model
from harness.plan import Data, open_settings
from harness.store import Store
from harness.sweep import decoding
from harness.sweep.decoding import Decoding, processes
from model_wrappers.errors import SampleError
from tests.sweep.doomed import Doomed
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
        with Decoding(model, lambda at: sweep.message_for(model, opened, at), name, count) as ahead:
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
    with Decoding(Doomed(tmp_path), messages(texts), "none", 2) as ahead:
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


def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with Decoding(Doomed(tmp_path), messages(["a", "forever", "b"]), "none", 1) as ahead:
            for at, future in ahead.ahead(range(3), int):
                if at == 0:
                    pid = future.result()[1]
                    while not (tmp_path / "begun").exists():
                        time.sleep(0.01)
                    raise KeyboardInterrupt
    assert not alive(pid)


def test_the_sweep_answers_alike(
    experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a decoder killed in the middle too."""
    rows = [{"method": "vanilla"}, {"method": "random", "keep": [0.5]}]
    chosen = experiment(benchmarks=("NExT-QA-MC",), rows=rows)
    _, thread = run(chosen, videos, tmp_path / "thread")
    monkeypatch.setattr("harness.sweep.answering.processes", lambda device, samples: 1)
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
