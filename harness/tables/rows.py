"""What a table is made of: rows of cells, groups of benchmarks with an average each, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.statistics import Cell, Interval
from harness.statistics.hard import Hard
from harness.statistics.significance import Pair

METHOD_LABELS = {
    "vanilla": "Vanilla",
    "fastv": "FastV",
    "cnn": "CNN (learned)",
    "relevance": "Relevance",
    "relevance_mean": "Relevance (mean of heads, no gradient)",
    "first_layer_attention": "First-layer attention",
    "random": "Random",
    "uniform": "Uniform",
    "oracle": "Oracle",
    "anti-oracle": "Anti-oracle",
    "pyramiddrop": "PyramidDrop",
    "fastvid": "FastVID",
    "prunevid": "PruneVID",
    "visionzip": "VisionZip",
    "sparsevlm": "SparseVLM",
    "divprune": "DivPrune",
    "dart": "DART",
    "downsample": "Downsample",
    "fewer_frames": "Fewer frames",
}

MISSING = "-"
NOISE = "≈"
FLOORS = {"random": "R", "downsample": "D"}
"""Methods that cost nothing to think of: a row below one of them is marked with its letter."""
BELOW = "↓"
LOSS = "▼"
"""Marks what takes longer than vanilla."""


@dataclass(frozen=True)
class Average:
    """One Avg.(%) of one row: percent, or None where no average may be given; `mark` points to a footnote.

    interval: 95%, None where unknown. noise: whether the row cannot be told from the best one of its model and
    retention, None where there is nothing to compare. n, asked: samples answered and asked in its benchmarks, 0 where
    unknown. below: those of FLOORS that are above it at the same model and retention. hard: over the samples that
    matter of its benchmarks, see `harness.statistics.hard`.
    """

    value: float | None
    mark: str = ""
    interval: Interval | None = None
    noise: bool | None = None
    n: int = 0
    asked: int = 0
    below: tuple[str, ...] = ()
    hard: Hard | None = None


@dataclass(frozen=True)
class Group:
    """Benchmarks that share one average, in order, the header of that average, and its key, which ends in avg_pct."""

    benchmarks: tuple[str, ...]
    header: str = "Avg.(%)"
    key: str = "avg_pct"

    def key_of(self, what: str) -> str:
        """The key of a column about this average: "lo" -> "avg_lo"."""
        return f"{self.key.removesuffix('pct')}{what}"


@dataclass(frozen=True)
class Costs:
    """What a row costs on an input of so many visual tokens as its experiment says; None where unknown.

    tflops: of the visual tokens, arXiv 2506.01097, eq. 4 to 6. prefill_seconds: measured, of the whole prompt, scoring
    included. kv_bytes: counted, of the visual tokens.
    """

    tflops: float | None = None
    prefill_seconds: float | None = None
    kv_bytes: float | None = None


@dataclass(frozen=True)
class RowResult:
    """One row: a model with a method at one retention ratio.

    model, method: names as the registry knows them. label: the method's name for readers; "" = `method_label(method)`.
    retention: the ratio asked for, in (0, 1]. cells: benchmark name -> Cell; a benchmark left out was not run.
    evidence_kept: of the visual tokens that a question is about, the share in [0, 1] that the method kept (mean over
        samples); None if unknown.
    realised: mean over samples of kept / visual at the method's last cut, in [0, 1].
    layer_mean: mean over samples and LLM layers of the visual tokens worked on / visual tokens, in [0, 1].
    equivalent_tokens: mean over samples and LLM layers of the visual tokens worked on.
    fields: the method's hyper-parameters; rows that differ only in these get them in their labels.
    averages: set by `build`, one for each group. hard: set by `build`, by benchmark, as `Average.hard`.
    seeds: the rows that this one is the mean of, see `harness.tables.seeds`; () for a row of its own.
    costs: None where its experiment does not ask for them.
    """

    model: str
    method: str
    label: str
    retention: float
    cells: Mapping[str, Cell]
    evidence_kept: float | None = None
    realised: float | None = None
    layer_mean: float | None = None
    equivalent_tokens: float | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    averages: tuple[Average, ...] = ()
    hard: Mapping[str, Hard] = field(default_factory=dict)
    seeds: tuple[RowResult, ...] = ()
    costs: Costs | None = None


@dataclass(frozen=True)
class Table:
    """Rows, the groups of benchmarks that are its columns, the footnotes, and the rows compared two by two. `micro`
    adds the micro-only columns.
    """

    title: str
    groups: tuple[Group, ...]
    rows: tuple[RowResult, ...]
    notes: tuple[str, ...] = ()
    micro: bool = False
    pairs: tuple[Pair, ...] = ()

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group.benchmarks)


@dataclass(frozen=True)
class Column:
    """One column: `raw` is the value for machines (shares in [0, 1], averages in percent), `show` the readers' text."""

    key: str
    header: str
    raw: Callable[[RowResult], str | float | None]
    show: Callable[[RowResult], str]
    number_format: str = "General"
    numeric: bool = True


def loses_time(row: RowResult, rows: Iterable[RowResult]) -> bool:
    """Whether a row's prefill, its scoring included, was measured to take longer than that of its model's vanilla."""
    if row.costs is None or row.costs.prefill_seconds is None:
        return False
    bases = [other.costs for other in rows if (other.model, other.method) == (row.model, "vanilla")]
    known = [base.prefill_seconds for base in bases if base is not None and base.prefill_seconds is not None]
    return any(row.costs.prefill_seconds > seconds for seconds in known)


def method_label(method: str) -> str:
    """The plain name of a method for readers; an unknown method is called by its own name."""
    return METHOD_LABELS.get(method, method)


def ratio(value: float) -> str:
    """A retention ratio as the paper prints it: 0.25 -> "25%", 0.125 -> "12.5%"."""
    return f"{100 * value:.2f}".rstrip("0").rstrip(".") + "%"
