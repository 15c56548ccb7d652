"""`retain efficiency`: what a method really costs and gains on this machine, beside what FLOPs promise.

Vision encoder, scoring, prefill and decoding are timed apart, on the way that a sweep takes (`compression.generate`),
with random pixels: time does not depend on what is seen, but for methods that merge what is alike (results tables join
them only where they worked on as many tokens). limits.py and request.py check what was asked, shapes.py and inputs.py
make a model and an input where there are none, variants.py says what is compared, measure.py runs all of it in turn,
summary.py takes medians and ratios, report.py and plot.py write them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.disk import check_folder
from model_wrappers.errors import UserError

OUT = Path("results/runs/efficiency.json")
"""Where tables look for measurements, in the store beside what they are made of."""


def main(arguments: Sequence[str] = ()) -> int:
    """`retain efficiency`: measure one model on one input, print the table, add it to the file. Returns 0.

    Raises:
        UserError: a mistake in what was asked, before a model is loaded.
    """
    parser = argparse.ArgumentParser(
        prog="retain efficiency", description="Measure what methods cost and gain: time and memory, beside FLOPs."
    )
    parser.add_argument("--model", required=True, help="a model's name or checkpoint folder")
    parser.add_argument("--tokens", type=int, required=True, help="visual tokens of the input")
    parser.add_argument("--media", choices=("image", "video"), default="image", help="what the input is (image)")
    parser.add_argument("--methods", nargs="+", default=[], help="such as cnn fastv:layer=2 (default: all of them)")
    parser.add_argument("--keeps", nargs="+", type=float, help="shares of the visual tokens (0.5 0.25 0.1)")
    parser.add_argument("--random-weights", action="store_true", help="the published shape, without its checkpoint")
    parser.add_argument("--layers", type=int, help="with random weights: of so many layers at most, for a slow machine")
    parser.add_argument("--repeats", type=int, help="timed rounds (5)")
    parser.add_argument("--decoded", type=int, help="tokens of an answer (8)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the file of measurements ({OUT})")
    chosen = vars(parser.parse_args(arguments))
    out = chosen.pop("out")
    if out.suffix != ".json":
        raise UserError(f"--out {out}: the file of measurements ends in .json")

    from harness.efficiency import limits

    given = {name: value for name, value in chosen.items() if value is not None}
    limits.check(**{name: value for name, value in given.items() if name != "media"})
    check_folder(out.parent, "--out")

    from harness.efficiency import measure, report, request, summary

    known = report.read(out)
    asked = request.check(given.pop("model"), given.pop("tokens"), **given, words=arguments)
    entry = summary.as_json(measure.measure(asked))
    print(report.table(entry), end="")
    paths = report.write(report.add(known, entry), out)
    print(f"\nWritten: {', '.join(map(str, paths))}")
    return 0
