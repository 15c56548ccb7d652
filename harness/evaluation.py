"""What scoring one benchmark means: answers in, scores by sample out, the kit's evaluation held against them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from harness.benchmarks.official import grouped
from harness.benchmarks.opened import OpenBenchmark
from harness.judge import JudgeConfig
from harness.vlmevalkit import evaluation, kit
from model_wrappers.errors import UserError

Index = int | str
AnyJudge = Literal["exact", "official"] | JudgeConfig
Workdir = str | Path | None


class ScoringError(RuntimeError):
    """VLMEvalKit's evaluation contradicts the samples' own scores. No number is given."""


@dataclass(frozen=True)
class Line:
    """One answered sample: its index, its row, the model's reply."""

    index: Index
    row: dict[str, Any]
    reply: str


@dataclass
class Result:
    """Scores in [0, 1] by sample, and means by group on the benchmark's scale."""

    per_sample: dict[Index, float]
    by_group: dict[str, float]
    note: str = ""
    unparsed: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def headline(self, scale: float) -> float:
        """The mean over the samples, times `scale`."""
        return scale * sum(self.per_sample.values()) / len(self.per_sample)


def own_groups(
    benchmark: OpenBenchmark, lines: Iterable[Line], per_sample: Mapping[Index, float]
) -> dict[str, float]:
    """Means by the official groups of this package's own dataset classes."""
    groups_of = kit(benchmark.entry.module).groups_of
    groups = {line.index: groups_of(line.row["type"]) for line in lines}
    if not per_sample:
        return {}
    means = grouped(per_sample, groups, benchmark.entry.scale)
    return {name: mean for name, mean in means.items() if name != "overall"}


def evaluate(benchmark: OpenBenchmark, table: pd.DataFrame, workdir: Workdir, **judge: Any) -> Any:
    """The kit's `evaluate` on `table`, in a folder of its own, gone afterwards. UserError when the disk refuses."""
    try:
        with tempfile.TemporaryDirectory(prefix="retain-", dir=workdir) as folder:
            path = Path(folder) / "answers.tsv"
            table.to_csv(path, sep="\t", index=False)
            with evaluation():
                return benchmark.dataset.evaluate(str(path), **judge)
    except OSError as error:
        where = error.filename or workdir or tempfile.gettempdir()
        raise UserError(f"{benchmark.name} cannot be scored: {where}: {error.strerror or error}") from error


def agree(benchmark: OpenBenchmark, kits: float, own: float, rounding: float) -> None:
    """Raise ScoringError unless the kit's headline (0..1) is the samples' mean, up to what the kit rounds away."""
    if not abs(kits - own) <= rounding:
        raise ScoringError(
            f"{benchmark.name}: VLMEvalKit's evaluation gives {kits:.4f}, the samples give {own:.4f}; "
            "this version of the kit counts differently, so no score is given"
        )
