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
from harness.scoring.judge import JudgeConfig
from harness.vlmevalkit import evaluation, kit
from model_wrappers.errors import UserError

Index = int | str
AnyJudge = Literal["exact", "official"] | JudgeConfig
Workdir = str | Path | None


EXACT = "exact match"
JUDGED = "judge "
PARTLY_JUDGED = "read, unclear replies by judge "


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
    """Scores in [0, 1] by sample, and means by group on the benchmark's scale.

    `contributions`: what the headline is the mean of, by sample; None: the scores. `strata`: the group in which that
    mean is taken, by sample, the headline being the sum over the groups; None: all in one. `scale`: what a mean is
    multiplied by; None: the benchmark's. `kits`: the headline where only VLMEvalKit can compute it from all samples
    together (an F1, say), and no mean of the samples is it. `scored`: "exact match", `JUDGED` or `PARTLY_JUDGED` with
    the model; "" for the benchmark's own rule.
    """

    per_sample: dict[Index, float]
    by_group: dict[str, float]
    note: str = ""
    unparsed: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    contributions: dict[Index, float] | None = None
    strata: dict[Index, str] | None = None
    scale: float | None = None
    kits: float | None = None
    scored: str = ""

    def parts(self) -> tuple[dict[Index, float], dict[Index, str]]:
        """Contributions and strata, of every sample that has a score."""
        contributions = self.per_sample if self.contributions is None else self.contributions
        return contributions, self.strata or dict.fromkeys(contributions, "")

    def headline(self, scale: float) -> float:
        """The kit's, or the sum over the strata of the mean contribution, times the scale."""
        if self.kits is not None:
            return self.kits
        contributions, strata = self.parts()
        members: dict[str, list[float]] = {}
        for index, value in contributions.items():
            members.setdefault(strata[index], []).append(value)
        means = [sum(values) / len(values) for values in members.values()]
        return (scale if self.scale is None else self.scale) * sum(means)


def own_groups(benchmark: OpenBenchmark, lines: Iterable[Line], per_sample: Mapping[Index, float]) -> dict[str, float]:
    """Means by the official groups of this package's own dataset classes."""
    groups_of = kit(benchmark.entry.module).groups_of
    groups = {line.index: groups_of(line.row["type"]) for line in lines}
    if not per_sample:
        return {}
    means = grouped(per_sample, groups, benchmark.entry.scale)
    return {name: mean for name, mean in means.items() if name != "overall"}


def evaluate(
    benchmark: OpenBenchmark, table: pd.DataFrame, workdir: Workdir, *, dataset: Any = None, **judge: Any
) -> Any:
    """The kit's `evaluate` on `table`, in a folder of its own, gone afterwards. UserError when the disk refuses.

    `dataset`: a stand-in for the benchmark's own. For images the table is pickled, so each text arrives as it is.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="retain-", dir=workdir) as folder:
            if benchmark.modality == "image":
                path = Path(folder) / "answers.pkl"
                table.to_pickle(path)
            else:  # the kit's video classes take no pickle
                path = Path(folder) / "answers.tsv"
                table.to_csv(path, sep="\t", index=False)
            with evaluation(type(benchmark.dataset)):
                return (dataset or benchmark.dataset).evaluate(str(path), **judge)
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


def primary_metric(benchmark: OpenBenchmark, found: Any) -> tuple[str, float, dict[str, float]]:
    """Name and value of the number that the kit reports as the main one, and all numbers that it found, by name."""
    metrics = kit("vlmeval.smp.status_report").flatten_summary_metrics(found)
    reported = benchmark.dataset.report_primary_metric(metrics)
    if not reported:
        raise UserError(f"{benchmark.name}: VLMEvalKit's evaluation gives no number ({str(found)[:80]!r})")
    name, value = next(iter(reported.items()))
    return name, float(value), {key: float(number) for key, number in metrics.items()}
