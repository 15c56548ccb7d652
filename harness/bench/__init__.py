"""`make bench`: how fast this machine answers, as ratios and shares that hold beyond it.

Nine questions, each measured in one run on one machine:
- the sweep (one process), and the sweep without batches, against VLMEvalKit's own loop (`infer_data_job_video`,
  `infer_data_job`), run once a cell with the same wrapper on the same samples, the three taking turns benchmark by
  benchmark; and whether they answer alike;
- how many answers batches would change in bfloat16, where they are off;
- how long a GPU would wait for decoded samples, from a thread and from a process;
- the whole grid of an experiment, from an empty store;
- the harness's share of that time: what is neither decoding nor the model; and the memory of a process;
- how long the command and the library take to start;
- answering on a Ray cluster: 1 and 2 workers, and the driver's own load with simulated GPUs;
- exact relevance: streaming against the textbook form, a prefill and a plain forward and backward pass, their growth;
- how far the two forms agree, in float64, float32 and bfloat16, on a micro experiment's models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.bench import agreement, relevance, scaling, waiting
from harness.bench.answering import Comparison, Grid, Tipped, compare, grid, tipped
from harness.bench.machine import machine, starts
from harness.disk import check_folder, write_atomically
from harness.experiments import load
from harness.opening import data_folder
from harness.sweep import cluster
from harness.tables.render import pipe_table
from model_wrappers.errors import UserError

SAMPLES = 10
LONGEST = max(relevance.ALONE)
OUT = Path("results/micro/bench.json")


def report(
    comparison: Comparison,
    half: Tipped,
    waits: list[waiting.Wait],
    whole: Grid,
    scales: scaling.Scaling,
    started: dict[str, float],
    costs: relevance.Measured,
    agreements: Sequence[agreement.Agreement] = (),
) -> str:
    """The measurements as a Markdown table."""
    lines = [
        ["sweep against VLMEvalKit's loop, once a cell", f"{comparison.ratio:.2f} x faster"],
        ["  the same without batches", f"{comparison.single_ratio:.2f} x faster"],
        ["  the sweep", f"{comparison.sweep_seconds:.1f} s"],
        ["  the sweep without batches", f"{comparison.single_seconds:.1f} s"],
        ["  the loop", f"{comparison.loop_seconds:.1f} s"],
        ["  equal answers", f"{comparison.equal} of {comparison.answers}"],
        ["  equal answers without batches", f"{comparison.equal_single} of {comparison.answers}"],
        [f"answers that batches change in {half.dtype}, where they are off", f"{half.different} of {half.answers}"],
        *waiting.rows(waits),
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
        *scaling.rows(scales),
        *([f"start of `{name}`", f"{seconds:.2f} s"] for name, seconds in started.items()),
        *relevance.rows(costs),
        *agreement.rows(agreements),
    ]
    return pipe_table(["measured", "value"], lines, [False, True])


def main(arguments: Sequence[str] = ()) -> int:
    """`retain bench`: measure, print the table and write the numbers with the machine's description. Returns 0."""
    parser = argparse.ArgumentParser(prog="retain bench", description="Measure speed: ratios and shares.")
    parser.add_argument("--experiment", default="table3", help="name or path of the experiment (default: table3)")
    parser.add_argument("--profile", default="micro", help="its profile: micro or paper (default: micro)")
    parser.add_argument(
        "--data", type=Path, help="folder of the data (default: results/data/paper; micro: made under results/data)"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples compared of each benchmark (default: 10)")
    parser.add_argument("--limit", type=int, help="samples a benchmark in the whole grid (default: all)")
    parser.add_argument("--workers", type=int, help="processes that answer the whole grid (default: as `retain run`)")
    parser.add_argument(
        "--longest",
        type=int,
        default=LONGEST,
        help=f"visual tokens of the longest relevance measured; 0: none is (default: {LONGEST})",
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the numbers go (default: {OUT})")
    chosen = parser.parse_args(arguments)
    for name, least in (("samples", 1), ("limit", 1), ("workers", 1), ("longest", 0)):
        if (value := getattr(chosen, name)) is not None and value < least:
            raise UserError(f"--{name} {value}: allowed are whole numbers from {least}")
    cluster.check(cluster.AUTO)
    experiment = load(chosen.experiment, chosen.profile, max_samples=chosen.limit, data=chosen.data)
    data = data_folder(experiment, chosen.data)
    check_folder(chosen.out.parent, "--out")
    # What other processes do comes first: once a model has answered in this one, its threads spin between two answers
    # (OMP_WAIT_POLICY=active) and take a core from every process that is measured after it.
    shape = relevance.Shape()
    both, alone = ([n for n in counts if n <= chosen.longest] for counts in (relevance.BOTH, relevance.ALONE))
    costs = relevance.measure(shape, both, alone)
    started = starts()
    whole = grid(experiment, data, chosen.workers)
    scales = scaling.measure(experiment, data, chosen.limit or scaling.SAMPLES)
    comparison = compare(experiment, data, chosen.samples)
    half = tipped(experiment, data, chosen.samples)
    waits = waiting.measure(experiment, data)
    # The textbook form keeps every attention map: models of real size are not asked for theirs.
    agreements = agreement.measure(experiment, data) if experiment.profile == "micro" else []
    content: dict[str, Any] = {
        "command": shlex.join(["retain", "bench", *arguments]),
        "machine": machine(),
        "experiment": {"name": experiment.name, "profile": experiment.profile, "samples_compared": chosen.samples},
        "comparison": {
            **dataclasses.asdict(comparison),
            "ratio": comparison.ratio,
            "single_ratio": comparison.single_ratio,
        },
        "half_precision": dataclasses.asdict(half),
        "waiting": [dataclasses.asdict(wait) for wait in waits],
        "grid": {**dataclasses.asdict(whole), "seconds": whole.seconds},
        "scaling": dataclasses.asdict(scales),
        "start_seconds": started,
        "relevance": {
            **relevance.summary(shape, costs),
            "agreement": [agreement.summary(each) for each in agreements],
        },
    }
    write_atomically(chosen.out, json.dumps(_rounded(content), indent=1) + "\n")
    about = content["machine"]
    print(report(comparison, half, waits, whole, scales, started, costs, agreements))
    print(f"\n{about['cpu']}, {about['cores']} cores, {about['torch_threads']} threads. Written: {chosen.out}")
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value
