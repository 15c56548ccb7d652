"""The sweep, with and without batches, against VLMEvalKit's own loop; and a whole experiment from an empty store.

All sides of the comparison are timed without importing, opening models or opening benchmarks; VLMEvalKit's user pays
those once a cell, so the ratio is a lower bound.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import plan as plans
from harness.bench.machine import say
from harness.experiments import Experiment
from harness.plan import Data
from harness.store import Store

# The kit's loop hands over messages only; these rows need to know what a question is about.
NEEDS_EVIDENCE = ("oracle", "anti-oracle")

Answers = dict[Any, str | None]
"""By (model, row, keep, benchmark, index)."""


@dataclass
class Comparison:
    """The sweep (as it runs), the sweep one by one, and the kit's loop on the same cells: seconds of each, answers
    given, and how many of either sweep's equal the loop's.
    """

    sweep_seconds: float = 0.0
    single_seconds: float = 0.0
    loop_seconds: float = 0.0
    answers: int = 0
    equal: int = 0
    equal_single: int = 0

    @property
    def ratio(self) -> float:
        """How many times faster the sweep is than the loop."""
        return self.loop_seconds / self.sweep_seconds

    @property
    def single_ratio(self) -> float:
        """How many times faster the sweep that answers one by one is than the loop."""
        return self.loop_seconds / self.single_seconds


@dataclass(frozen=True)
class Tipped:
    """Answers in half precision, and how many of them were others when they were generated in batches."""

    dtype: str
    answers: int
    different: int


@dataclass(frozen=True)
class Grid:
    """A whole experiment, all its models, from an empty store, by `workers` processes.

    Seconds: planning, answering (`wall`), scoring; `again`, all of it a second time. Shares (0 to 1) of the time that
    the processes answered: `decode` waiting for decoded samples, `encode` the vision encoder, `answer` the methods and
    the LLM, `overhead` the rest. `peak_memory`: the most bytes that one process held.
    """

    models: int
    answers: int
    failures: int
    workers: int
    peak_memory: int
    plan: float
    wall: float
    score: float
    again: float
    decode: float
    encode: float
    answer: float
    overhead: float

    @property
    def seconds(self) -> float:
        """From the plan to the table: what a user waits, but for starting Python."""
        return self.plan + self.wall + self.score


def compare(experiment: Experiment, data: Path, samples: int) -> Comparison:
    """Times both sweeps and the kit's loop on the first `samples` samples of every benchmark of `experiment`.

    Rows that need evidence are left out. Raises UserError for data or models that cannot be used.
    """
    rows = [row for row in experiment.rows if row.method not in NEEDS_EVIDENCE]
    found = Comparison()
    warm = experiment.model_copy(update={"rows": rows[:1], "benchmarks": experiment.benchmarks[:1], "max_samples": 1})
    sides = (_sweep, _single, _loop)
    with tempfile.TemporaryDirectory(prefix="retain-bench-") as folder:
        for side in sides:
            side(warm, data, Path(folder) / f"warm{side.__name__}")
        for number, benchmark in enumerate(experiment.benchmarks):
            one = experiment.model_copy(update={"rows": rows, "benchmarks": [benchmark], "max_samples": samples})
            say(f"{benchmark}: the sweep, with and without batches, and VLMEvalKit's loop")
            taken, given = dict[Any, float](), dict[Any, Answers]()
            for side in sides if number % 2 == 0 else sides[::-1]:
                taken[side], given[side] = side(one, data, Path(folder) / f"{number}{side.__name__}")
            found.sweep_seconds += taken[_sweep]
            found.single_seconds += taken[_single]
            found.loop_seconds += taken[_loop]
            found.answers += len(given[_loop])
            found.equal += sum(given[_sweep].get(key) == text for key, text in given[_loop].items())
            found.equal_single += sum(given[_single].get(key) == text for key, text in given[_loop].items())
    return found


def tipped(experiment: Experiment, data: Path, samples: int, dtype: str = "bfloat16") -> Tipped:
    """How many answers to the first `samples` samples of every benchmark batches change in half precision."""
    some = experiment.model_copy(update={"dtype": dtype, "max_samples": samples})
    with tempfile.TemporaryDirectory(prefix="retain-bench-") as folder:
        say(f"answers that batches change in {dtype}")
        _, alone = _sweep(some, data, Path(folder) / "alone", "never")
        _, together = _sweep(some, data, Path(folder) / "together", "always")
    return Tipped(dtype, len(alone), sum(together.get(key) != text for key, text in alone.items()))


def grid(experiment: Experiment, data: Path, workers: int | None = None) -> Grid:
    """Times a whole experiment from an empty store to its table, and the same command a second time."""
    from harness import results, sweep

    with tempfile.TemporaryDirectory(prefix="retain-bench-") as folder:
        store, clock = Store(Path(folder)), time.perf_counter
        say("the whole grid")
        start = clock()
        opened = Data(experiment, data)
        plan = plans.make(experiment, opened, store)
        planned = clock()
        run = sweep.run(experiment, store, data=opened, plan=plan, workers=workers)
        answered = clock()
        results.collect(plan, opened, store)
        scored = clock()
        opened = Data(experiment, data)
        plan = plans.make(experiment, opened, store)
        sweep.run(experiment, store, data=opened, plan=plan)
        results.collect(plan, opened, store)
        again = clock() - scored
    timing = run.timing
    return Grid(
        models=len(experiment.models),
        answers=run.answered,
        failures=len(run.failures),
        workers=len(run.peaks),
        peak_memory=max(run.peaks),
        plan=planned - start,
        wall=run.seconds,
        score=scored - answered,
        again=again,
        decode=timing.decode / timing.wall,
        encode=timing.encode / timing.wall,
        answer=timing.answer / timing.wall,
        overhead=timing.overhead,
    )


def _sweep(experiment: Experiment, data: Path, folder: Path, batching: str = "exact") -> tuple[float, Answers]:
    """Seconds of answering and the answers."""
    from harness import sweep
    from harness.vlmevalkit import patched
    from model_wrappers.families.common import FamilyModel

    opened, store = Data(experiment, data), Store(folder)
    plan = plans.make(experiment, opened, store)
    with patched(FamilyModel, "batching", batching):
        result = sweep.run(experiment, store, data=opened, plan=plan, workers=1)
    answers = {
        (cell.model, cell.row, cell.keep, cell.benchmark, str(index)): answer.prediction
        for cell in plan.cells
        for index, answer in store.cell(cell.settings).read().items()
    }
    return result.timing.wall, answers


def _single(experiment: Experiment, data: Path, folder: Path) -> tuple[float, Answers]:
    """The same one by one."""
    return _sweep(experiment, data, folder, "never")


def _loop(experiment: Experiment, data: Path, folder: Path) -> tuple[float, Answers]:
    """The same cells by VLMEvalKit's loop, one after the other, each in a fresh folder, with one opened model."""
    from harness.benchmarks import open_benchmark
    from harness.models import open_model
    from harness.vlmevalkit import data_root, kit, quiet
    from model_wrappers.registry import method

    jobs = {
        "video": kit("vlmeval.inference_video").infer_data_job_video,
        "image": kit("vlmeval.inference").infer_data_job,
    }
    plan = plans.make(experiment, Data(experiment, data), Store(folder))
    defined = {(cell.model, cell.row, cell.keep, cell.benchmark) for cell in plan.cells}
    seconds, answers = 0.0, Answers()
    for name in experiment.models:
        model = open_model(name, **plans.open_settings(experiment, name))
        for benchmark in experiment.benchmarks:
            opened = open_benchmark(benchmark, data, experiment.frames_of(name))
            asked = opened.rows.iloc[: experiment.max_samples].reset_index(drop=True)
            for number, row in enumerate(experiment.rows):
                model.method = method(row.method, **row.fields)
                for keep in row.keep:
                    if (name, number, keep, benchmark) not in defined:
                        continue
                    model.keep = keep
                    opened.dataset.data = asked.copy()
                    work = folder / Path(name).name / f"{benchmark}-{number}-{keep}"
                    work.mkdir(parents=True)
                    with data_root(data), quiet():
                        start = time.perf_counter()
                        jobs[opened.modality](model, work_dir=str(work), model_name="cell", dataset=opened.dataset)
                        seconds += time.perf_counter() - start
                    done = opened.dataset.data
                    for index, text in zip(done["index"], done["prediction"], strict=True):
                        answers[name, number, keep, benchmark, str(index)] = text
        model.close()
    return seconds, answers
