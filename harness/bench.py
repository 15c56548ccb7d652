"""`make bench`: how fast this machine answers, as ratios and shares that hold beyond it.

Four questions, each measured in one run on one machine:
- the sweep (one process) against VLMEvalKit's own loop (`infer_data_job_video`, `infer_data_job`), run once a cell with
  the same wrapper on the same samples, the two taking turns benchmark by benchmark; and whether they answer alike;
- the whole grid of an experiment, from an empty store;
- the harness's share of that time: what is neither decoding nor the model; and the memory of a process;
- how long the command and the library take to start.

Both sides of the comparison are timed without importing, opening models or opening benchmarks; VLMEvalKit's user pays
those once a cell, so the ratio is a lower bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import identity
from harness import plan as plans
from harness.experiments import Experiment, load
from harness.plan import Data
from harness.store import Store, write_atomically
from harness.tables.render import pipe_table

SAMPLES = 10
STARTS = 5
# The kit's loop hands over messages only; these rows need to know what a question is about.
NEEDS_EVIDENCE = ("oracle", "anti-oracle")


@dataclass
class Comparison:
    """The sweep and the kit's loop on the same cells: seconds of each, answers given, and how many were equal."""

    sweep_seconds: float = 0.0
    loop_seconds: float = 0.0
    answers: int = 0
    equal: int = 0

    @property
    def ratio(self) -> float:
        """How many times faster the sweep is."""
        return self.loop_seconds / self.sweep_seconds


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
    """Times the sweep and the kit's loop on the first `samples` samples of every benchmark of `experiment`.

    Rows that need evidence are left out. Raises UserError for data or models that cannot be used.
    """
    rows = [row for row in experiment.rows if row.method not in NEEDS_EVIDENCE]
    found = Comparison()
    warm = experiment.model_copy(update={"rows": rows[:1], "benchmarks": experiment.benchmarks[:1], "max_samples": 1})
    with tempfile.TemporaryDirectory(prefix="retain-bench-") as folder:
        for side in (_sweep, _loop):
            side(warm, data, Path(folder) / f"warm{side.__name__}")
        for number, benchmark in enumerate(experiment.benchmarks):
            one = experiment.model_copy(update={"rows": rows, "benchmarks": [benchmark], "max_samples": samples})
            _say(f"{benchmark}: the sweep and VLMEvalKit's loop")
            given: dict[Any, dict[Any, str | None]] = {}
            for side in (_sweep, _loop) if number % 2 == 0 else (_loop, _sweep):
                seconds, given[side] = side(one, data, Path(folder) / f"{number}{side.__name__}")
                if side is _sweep:
                    found.sweep_seconds += seconds
                else:
                    found.loop_seconds += seconds
            found.answers += len(given[_loop])
            found.equal += sum(given[_sweep].get(key) == text for key, text in given[_loop].items())
    return found


def grid(experiment: Experiment, data: Path, workers: int | None = None) -> Grid:
    """Times a whole experiment from an empty store to its table, and the same command a second time."""
    from harness import results, sweep

    with tempfile.TemporaryDirectory(prefix="retain-bench-") as folder:
        store, clock = Store(Path(folder)), time.perf_counter
        _say("the whole grid")
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


def starts() -> dict[str, float]:
    """Median seconds of a fresh process: the bare interpreter, `retain --help`, and importing the library."""
    codes = {
        "python": "pass",
        "retain --help": "from harness.cli import main; main(['--help'])",
        "import model_wrappers": "import model_wrappers",
    }
    _say("start-up")
    return {name: statistics.median(_start(code) for _ in range(STARTS)) for name, code in codes.items()}


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, cores, threads, packages."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "retain": identity.retain_version(),
            **identity.versions(),
        },
    }


def report(comparison: Comparison, whole: Grid, started: dict[str, float]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        ["sweep against VLMEvalKit's loop, once a cell", f"{comparison.ratio:.2f} x faster"],
        ["  the sweep", f"{comparison.sweep_seconds:.1f} s"],
        ["  the loop", f"{comparison.loop_seconds:.1f} s"],
        ["  equal answers", f"{comparison.equal} of {comparison.answers}"],
        ["whole grid, from an empty store to the table", f"{whole.seconds:.1f} s"],
        ["  models, processes", f"{whole.models}, {whole.workers}"],
        ["  most memory of a process", f"{whole.peak_memory / 2**30:.2f} GiB"],
        ["  answers", f"{whole.answers} ({whole.answers / whole.wall:.1f}/s, {whole.failures} failed)"],
        ["  planning, scoring", f"{whole.plan:.1f} s, {whole.score:.1f} s"],
        ["  the same again, everything answered", f"{whole.again:.2f} s"],
        ["share of the answering time: harness", f"{100 * whole.overhead:.2f}%"],
        ["  waiting for decoded samples", f"{100 * whole.decode:.1f}%"],
        ["  vision encoder", f"{100 * whole.encode:.1f}%"],
        ["  methods and LLM", f"{100 * whole.answer:.1f}%"],
        *([f"start of `{name}`", f"{seconds:.2f} s"] for name, seconds in started.items()),
    ]
    return pipe_table(["measured", "value"], lines, [False, True])


def main(arguments: Sequence[str] = ()) -> int:
    """`retain bench`: measure, print the table and write the numbers with the machine's description. Returns 0."""
    parser = argparse.ArgumentParser(prog="retain bench", description="Measure speed: ratios and shares.")
    parser.add_argument("--experiment", default="table3", help="name or path of the experiment (default: table3)")
    parser.add_argument("--profile", default="micro", help="its profile (default: micro)")
    parser.add_argument("--data", type=Path, help="folder of the benchmarks' data (micro: made under results/data)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples compared of each benchmark (default: 10)")
    parser.add_argument("--limit", type=int, help="samples a benchmark in the whole grid (default: all)")
    parser.add_argument("--workers", type=int, help="processes that answer the whole grid (default: as `retain run`)")
    parser.add_argument("--out", type=Path, default=Path("results/micro/bench.json"), help="where the numbers go")
    chosen = parser.parse_args(arguments)
    experiment = load(chosen.experiment, chosen.profile, max_samples=chosen.limit)
    data = chosen.data
    if data is None:
        from harness.micro.editions import ensure

        data = ensure(Path("results/data"))
    comparison = compare(experiment, data, chosen.samples)
    whole = grid(experiment, data, chosen.workers)
    started = starts()
    content = {
        "machine": machine(),
        "experiment": {"name": experiment.name, "profile": experiment.profile, "samples_compared": chosen.samples},
        "comparison": {**dataclasses.asdict(comparison), "ratio": comparison.ratio},
        "grid": {**dataclasses.asdict(whole), "seconds": whole.seconds},
        "start_seconds": started,
    }
    write_atomically(chosen.out, json.dumps(_rounded(content), indent=1) + "\n")
    about = content["machine"]
    print(report(comparison, whole, started))
    print(f"\n{about['cpu']}, {about['cores']} cores, {about['torch_threads']} threads. Written: {chosen.out}")
    return 0


def _sweep(experiment: Experiment, data: Path, folder: Path) -> tuple[float, dict[Any, str | None]]:
    """Seconds of answering and the answers by (model, row, keep, benchmark, index)."""
    from harness import sweep

    opened, store = Data(experiment, data), Store(folder)
    plan = plans.make(experiment, opened, store)
    result = sweep.run(experiment, store, data=opened, plan=plan, workers=1)
    answers = {
        (cell.model, cell.row, cell.keep, cell.benchmark, str(index)): answer.prediction
        for cell in plan.cells
        for index, answer in store.cell(cell.settings).read().items()
    }
    return result.timing.wall, answers


def _loop(experiment: Experiment, data: Path, folder: Path) -> tuple[float, dict[Any, str | None]]:
    """The same cells by VLMEvalKit's loop, one after the other, each in a fresh folder, with one opened model."""
    from harness.benchmarks import open_benchmark
    from harness.models import open_model
    from harness.vlmevalkit import data_root, kit, quiet
    from model_wrappers.registry import method

    jobs = {
        "video": kit("vlmeval.inference_video").infer_data_job_video,
        "image": kit("vlmeval.inference").infer_data_job,
    }
    seconds, answers = 0.0, dict[Any, str | None]()
    for name in experiment.models:
        model = open_model(name, **plans.open_settings(experiment, name))
        for benchmark in experiment.benchmarks:
            opened = open_benchmark(benchmark, data, experiment.frames_of(name))
            asked = opened.rows.iloc[: experiment.max_samples].reset_index(drop=True)
            for number, row in enumerate(experiment.rows):
                model.method = method(row.method, **row.fields)
                for keep in row.keep:
                    model.keep = keep
                    opened.dataset.data = asked.copy()
                    work = folder / f"{benchmark}-{number}-{keep}"
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


def _start(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    return time.perf_counter() - start


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value


def _say(text: str) -> None:
    print(f"measuring: {text}", file=sys.stderr, flush=True)
