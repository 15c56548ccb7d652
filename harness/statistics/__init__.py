"""What is computed from scores: preservation, the paper's Avg.(%), and when two scores may be compared at all.

Standard library only: the same code serves our tables and the recomputation of the paper's. How sure a preservation is
comes from `harness.statistics.bootstrap`, which two rows differ from `harness.statistics.significance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RESAMPLES = 2000
"""Resamples behind every interval."""
FEWEST = 10
"""Fewer videos or images than this, beyond those that strata use up, say nothing reliable about their spread."""


@dataclass(frozen=True)
class Samples:
    """What a score is made of, sample by sample: all four of the same length, in one order for every row of a table.

    The score is the sum over strata of `scale` x the mean contribution of the stratum's samples; most benchmarks have
    one stratum, MME one for each category.

    contributions: what each sample adds. clusters: the video or image that each sample asks about; samples of one
    cluster are not independent. strata: by sample. right: how right each answer is, in [0, 1].
    """

    contributions: tuple[float, ...]
    clusters: tuple[str, ...]
    strata: tuple[str, ...]
    right: tuple[float, ...]
    scale: float

    def score(self) -> float:
        """The score that these samples give."""
        by_stratum: dict[str, list[float]] = {}
        for stratum, value in zip(self.strata, self.contributions, strict=True):
            by_stratum.setdefault(stratum, []).append(value)
        return self.scale * sum(sum(values) / len(values) for values in by_stratum.values())


@dataclass(frozen=True)
class Cell:
    """One score of one row: a model with a method at one retention ratio on one benchmark.

    score: the benchmark's headline number in its own unit (percent, or 0 to 3); None when no score stands, because
        samples failed or were not asked.
    n, total: samples answered and samples asked; both 0 where unknown, as for a printed number.
    samples: names the set of samples (a digest). Two scores are compared only when these are equal.
    note: how the score was made, where a reader must know ("exact match instead of a judge").
    runs: the samples behind the score, once for each seed that it is the mean of; () where they are unknown, and then
        nothing can be said about how sure the score is.
    scored: by whom or what, where a benchmark can be scored in several ways ("exact match", "judge gpt-4.1"): scores
        are compared only when these are equal. "" where there is one way, or it is not known.
    """

    score: float | None
    n: int = 0
    total: int = 0
    samples: str = ""
    note: str = ""
    runs: tuple[Samples, ...] = field(default=(), repr=False)
    scored: str = ""

    @property
    def complete(self) -> bool:
        """Whether every sample that was asked has an answer and a score stands."""
        return self.score is not None and self.n == self.total


@dataclass(frozen=True)
class Interval:
    """The ends of a 95% interval."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside, ends included."""
        return self.low <= value <= self.high


def comparable(one: Cell | None, other: Cell | None) -> bool:
    """Whether two scores are over the very same samples, all of them answered, and scored in the same way."""
    if one is None or other is None or not (one.complete and other.complete):
        return False
    return (one.samples, one.total, one.scored) == (other.samples, other.total, other.scored)


def preservation(row: Mapping[str, Cell], vanilla: Mapping[str, Cell], benchmarks: Sequence[str]) -> float | None:
    """Mean over benchmarks of score / vanilla score, in percent: Avg.(%) of the paper's Tables 1 to 6.

    None, rather than a number that means something else, when a benchmark is missing or incomplete in either row, when
    the two rows did not answer the same samples, or when vanilla scores 0.
    """
    ratios = []
    for benchmark in benchmarks:
        ours, base = row.get(benchmark), vanilla.get(benchmark)
        if ours is None or base is None or not comparable(ours, base):
            return None
        if ours.score is None or not base.score:
            return None
        ratios.append(ours.score / base.score)
    return 100.0 * sum(ratios) / len(ratios) if ratios else None
