"""What is computed from scores: preservation, the paper's Avg.(%).

Standard library only: the same code serves our tables and the recomputation of the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One score of one row: a model with a method at one retention ratio on one benchmark.

    score: the benchmark's headline number in its own unit (percent, or 0 to 3); None when no score stands, because
        samples failed or were not asked.
    n, total: samples answered and samples asked; both 0 where unknown, as for a printed number.
    samples: names the set of samples (a digest). Two scores are compared only when these are equal.
    note: how the score was made, where a reader must know ("exact match instead of a judge").
    """

    score: float | None
    n: int = 0
    total: int = 0
    samples: str = ""
    note: str = ""

    @property
    def complete(self) -> bool:
        """Whether every sample that was asked has an answer and a score stands."""
        return self.score is not None and self.n == self.total


def preservation(row: Mapping[str, Cell], vanilla: Mapping[str, Cell], benchmarks: Sequence[str]) -> float | None:
    """Mean over benchmarks of score / vanilla score, in percent: Avg.(%) of the paper's Tables 1 to 6.

    None, rather than a number that means something else, when a benchmark is missing or incomplete in either row, when
    the two rows did not answer the same samples, or when vanilla scores 0.
    """
    ratios = []
    for benchmark in benchmarks:
        ours, base = row.get(benchmark), vanilla.get(benchmark)
        if ours is None or base is None or not (ours.complete and base.complete):
            return None
        if ours.samples != base.samples or ours.total != base.total:
            return None
        if ours.score is None or not base.score:
            return None
        ratios.append(ours.score / base.score)
    return 100.0 * sum(ratios) / len(ratios) if ratios else None
