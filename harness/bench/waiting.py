"""How long a GPU would wait for decoded samples: decoding in a thread against decoding in processes.

There is no GPU here; what stands in its place is what a GPU needs of this process: a thread that launches small torch
operations one after the other, for as long as a GPU takes for a sample. That time is given as a multiple of the seconds
that one sample takes to decode alone, so that shares hold beyond this machine.

One of the multiples is the scaled clock of the run that is measured: its model's seconds on a sample (vision encoder,
all methods and keeps) over the sample's decoding, both on this machine. The aim there: one process, a share of `AIM`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import plan as plans
from harness.bench.machine import say
from harness.experiments import Experiment
from harness.plan import Data
from harness.sweep.decoding import LOOK_AHEAD, Decoders, Decoding

MULTIPLES = (4.0, 2.0, 1.0)
"""Of a sample's decoding: how long the stand-in for a GPU takes for the sample."""
AIM = 0.10
"""The most of its time that a GPU should wait for decoded samples."""
WORKED = 10
"""Samples of which the scaled clock is the mean."""
SAMPLES = 30
"""A wait is milliseconds: of fewer, one moment in which the machine does something else is the result."""
PROCESSES = (0, 1)
"""0 is the thread."""


@dataclass(frozen=True)
class Wait:
    """Of one stand-in, by `processes` that decode (0: a thread).

    `share`: of the wall time that it waited for decoded samples (0 to 1). `slower`: how much longer its own work took
    than alone (0 to 1 and above), since a thread that decodes wants Python as well. `scaled`: whether `multiple` is the
    run's own, see above.
    """

    multiple: float
    processes: int
    share: float
    slower: float
    scaled: bool = False


def measure(experiment: Experiment, data: Path, samples: int = SAMPLES) -> list[Wait]:
    """On the first `samples` samples of the first benchmark, for the first model.

    Raises UserError for data or models that cannot be used.
    """
    from harness.models import open_model
    from harness.sweep import message_for, use_frames_of

    name, benchmark = experiment.models[0], experiment.benchmarks[0]
    opened = Data(experiment, data).open(benchmark, experiment.frames_of(name))
    model = open_model(name, **plans.open_settings(experiment, name))
    try:
        if opened.modality == "image":
            model.set_dump_image(opened.dump_image)
        else:
            use_frames_of(model, opened.dataset)
        count = min(samples, len(opened))

        def message(position: int) -> Any:
            return message_for(model, opened, position % count)

        dataset = opened.dataset.dataset_name
        seconds = statistics.median(_decoding(model, message(position), dataset) for position in range(count))
        launches = _launches(0.2) / 0.2 * seconds  # that fill the seconds of one sample's decoding
        say(f"{benchmark}: how long {name} works on a sample")
        own = _work(experiment, data, min(WORKED, count)) / seconds
        found = []
        for processes in PROCESSES:
            say(f"{benchmark}: waiting for samples that {processes or 'no'} process decodes")
            with Decoders(processes) as decoders, Decoding(model, message, dataset, decoders) as decoding:
                for multiple in (own, *MULTIPLES):
                    share, slower = _beside(decoding, count, round(multiple * launches))
                    found.append(Wait(multiple, processes, share, slower, scaled=multiple == own))
        return sorted(found, key=lambda wait: (not wait.scaled, -wait.multiple, wait.processes))
    finally:
        model.close()


def rows(waits: list[Wait]) -> list[list[str]]:
    """Lines of the report."""
    lines = []
    for wait in waits:
        who = f"{wait.processes} process{'es' if wait.processes > 1 else ''}" if wait.processes else "a thread"
        clock = f"GPU at {wait.multiple:.3g} x a sample's decoding{' (as this run)' if wait.scaled else ''}, {who}"
        aim = f" (aim: {100 * AIM:.0f}%, {'held' if wait.share <= AIM else 'missed'})" if wait.processes else ""
        lines.append([clock, f"waits {100 * wait.share:.1f}%{aim}, launches {100 * wait.slower:.0f}% slower"])
    return lines


def waited(decoding: Decoding, count: int, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds waited and worked over `count` samples, by who does `work` with each."""
    waits = works = 0.0
    for number, future in decoding.ahead(range(count + LOOK_AHEAD), int):
        start = time.perf_counter()
        future.result()
        ready = time.perf_counter()
        work()
        if number >= LOOK_AHEAD:  # those before were decoded while nobody worked
            waits += ready - start
            works += time.perf_counter() - ready
    return waits, works


def _beside(decoding: Decoding, count: int, launches: int) -> tuple[float, float]:
    """Share waited and how much slower, over `count` samples at so many launches each."""
    alone = _timed(launches)
    waits, works = waited(decoding, count, lambda: _timed(launches))
    return waits / (waits + works), works / (alone * count) - 1


def _work(experiment: Experiment, data: Path, count: int) -> float:
    """Seconds that the first model works on a sample of the first benchmark, for all methods and keeps."""
    from harness import sweep
    from harness.store import Store

    first = {"models": experiment.models[:1], "benchmarks": experiment.benchmarks[:1], "max_samples": count}
    some = experiment.model_copy(update=first)
    with tempfile.TemporaryDirectory(prefix="retain-bench-") as folder:
        timing = sweep.run(some, Store(Path(folder)), data=Data(some, data), workers=1).timing
    return (timing.encode + timing.answer) / count


def _decoding(model: Any, message: Any, dataset: str) -> float:
    start = time.perf_counter()
    model.decode(message, dataset)
    return time.perf_counter() - start


def _timed(launches: int) -> float:
    """Seconds of so many small operations."""
    import torch

    value = torch.zeros(16)
    start = time.perf_counter()
    for _ in range(launches):
        value.add_(1.0)
    return time.perf_counter() - start


def _launches(seconds: float) -> int:
    """How many small operations fill so many seconds."""
    count = 1000
    while (taken := _timed(count)) < seconds / 2:
        count *= 2
    return round(count * seconds / taken)
