"""Made answers whose true scores are known: a right answer is a normal number below a threshold.

The number has a part of its cluster, a part of its sample that all rows share, and a part of its own, so that rows are
paired and clusters matter as they do in a real benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from harness.statistics import Cell, Samples


def answers(
    generator: np.random.Generator, tables: int, sizes: Sequence[int], chances: Sequence[float], shared: float = 0.25
) -> np.ndarray:
    """0 or 1 by [tables, samples, rows]; `sizes`: samples in each cluster; `chances`: of a right answer, by row."""
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    of_cluster = generator.standard_normal((tables, len(sizes)))[:, cluster, None]
    of_sample = generator.standard_normal((tables, len(cluster), 1))
    own = generator.standard_normal((tables, len(cluster), len(chances)))
    rest = 1 - shared
    level = np.sqrt(shared) * of_cluster + np.sqrt(0.6 * rest) * of_sample + np.sqrt(0.4 * rest) * own
    return (level < np.array([NormalDist().inv_cdf(chance) for chance in chances])).astype(float)


def cell(
    *runs: Sequence[float] | np.ndarray,
    clusters: Sequence[str] | None = None,
    strata: Sequence[str] | None = None,
    scale: float = 100.0,
    right: Sequence[float] | None = None,
    samples: str = "the same",
) -> Cell:
    """The cell of these contributions: one sequence for each seed."""
    n = len(runs[0])
    made = tuple(
        Samples(
            tuple(np.asarray(run, float).tolist()),
            tuple(clusters or map(str, range(n))),
            tuple(strata or [""] * n),
            tuple(np.asarray(run if right is None else right, float).tolist()),
            scale,
        )
        for run in runs
    )
    return Cell(sum(run.score() for run in made) / len(made), n, n, samples, runs=made)
