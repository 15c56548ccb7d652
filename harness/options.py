"""The options that several commands share, each said once. Importing it loads nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from harness.matching import Match
from model_wrappers.errors import UserError

ExperimentArgument = Annotated[str, typer.Argument(help="an experiment's name (see `retain list`) or .yaml file")]
ProfileOption = Annotated[str, typer.Option(help="which profile of the experiment: micro or paper")]
LimitOption = Annotated[int | None, typer.Option(help="only the first N samples of each benchmark", metavar="N")]
DataOption = Annotated[
    Path | None, typer.Option(help="folder of the data (default: results/data/paper; micro: made under results/data)")
]
StoreOption = Annotated[Path, typer.Option(help="where predictions, scores and tables lie")]
MatchOption = Annotated[
    Match | None,
    typer.Option(help="choose each method's keep so that at one retention all hold as many tokens over the layers"),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="processes that answer (default: what cores, memory and GPU allow)"),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="answer on a Ray cluster: auto (this machine's GPUs, else cores) or HOST:PORT"
    ),
]
JudgeLimitOption = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="DOLLARS", help="what the experiment's judges may cost in all, earlier runs of it included"
    ),
]
DEFAULT_STORE = Path("results/runs")


def check_keeps(keeps: Iterable[float]) -> None:
    """UserError for a --keep outside (0, 1]."""
    for keep in keeps:
        if not (math.isfinite(keep) and 0 < keep <= 1):
            raise UserError(f"--keep {keep:g}: allowed is a number above 0 and at most 1")
