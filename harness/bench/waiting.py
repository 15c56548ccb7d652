"""How long a GPU would wait for decoded samples: decoding in a thread against decoding in processes.

There is no GPU here; what stands in its place is what a GPU needs of this process: a thread that launches small torch
operations one after the other, for as long as a GPU takes for a sample. That time is given as a multiple of the seconds
that one sample takes to decode alone, so that shares hold beyond this machine.
"""

from __future__ import annotations

import statistics
import time
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
SAMPLES = 30
"""A wait is milliseconds: of fewer, one moment in which the machine does something else is the result."""
PROCESSES = (0, 1)
"""0 is the thread."""


@dataclass(frozen=True)
class Wait:
    """Of one stand-in, by `processes` that decode (0: a thread).

    `share`: of the wall time that it waited for decoded samples (0 to 1). `slower`: how much longer its own work took
    than alone (0 to 1 and above), since a thread that decodes wants Python as well.
    """

    multiple: float
    processes: int
    share: float
    slower: float


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
        found = []
        for processes in PROCESSES:
            say(f"{benchmark}: waiting for samples that {processes or 'no'} process decodes")
            with Decoders(processes) as decoders, Decoding(model, message, dataset, decoders) as decoding:
                for multiple in MULTIPLES:
                    found.append(Wait(multiple, processes, *_consume(decoding, count, round(multiple * launches))))
        return sorted(found, key=lambda wait: (-wait.multiple, wait.processes))
    finally:
        model.close()


def rows(waits: list[Wait]) -> list[list[str]]:
    """Lines of the report."""
    lines = []
    for wait in waits:
        who = f"{wait.processes} process{'es' if wait.processes > 1 else ''}" if wait.processes else "a thread"
        lines.append(
            [
                f"GPU at {wait.multiple:g} x a sample's decoding, {who}",
                f"waits {100 * wait.share:.1f}%, launches {100 * wait.slower:.0f}% slower",
            ]
        )
    return lines


def _consume(decoding: Decoding, count: int, launches: int) -> tuple[float, float]:
    """Share waited and how much slower, over `count` samples at so many launches each."""
    alone = _timed(launches)
    waited = worked = 0.0
    for number, future in decoding.ahead(range(count + LOOK_AHEAD), int):
        start = time.perf_counter()
        future.result()
        ready = time.perf_counter()
        _timed(launches)
        if number >= LOOK_AHEAD:  # those before were decoded while nobody worked
            waited += ready - start
            worked += time.perf_counter() - ready
    return waited / (waited + worked), worked / (alone * count) - 1


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
