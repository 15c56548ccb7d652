"""A 95% interval holds the truth in 93 to 97% of 1,000 made tables, whatever its samples come in.

Every table has two rows and a vanilla one; the tables share their resamples, as the rows of one table do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from harness.statistics import Cell
from harness.statistics.bootstrap import difference, interval, ratios
from tests.statistics.made import answers, cell

TABLES = 1000


@dataclass(frozen=True)
class Design:
    """Benchmarks, the samples in each cluster, chances of vanilla and two rows, seeds, strata (equal in clusters)."""

    sizes: tuple[int, ...]
    chances: tuple[float, float, float] = (0.9, 0.6, 0.5)
    benchmarks: int = 1
    seeds: int = 1
    strata: int = 1


DESIGNS = {
    "100 samples of 50 videos": Design((2,) * 50),
    "videos with 1 to 4 samples": Design((1, 1, 1, 2, 2, 2, 2, 2, 3, 4) * 5),
    "100 samples of 20 videos": Design((5,) * 20),
    "100 videos of one sample": Design((1,) * 100),
    "six benchmarks": Design((2,) * 50, benchmarks=6),
    "rows close to vanilla": Design((2,) * 50, (0.95, 0.93, 0.9), benchmarks=3),
    "a weak model": Design((2,) * 50, (0.5, 0.25, 0.2)),
    "a mean of three seeds": Design((2,) * 50, seeds=3),
    "14 strata of four images": Design((2,) * 56, strata=14),
}


def _rows(design: Design, generator: np.random.Generator) -> list[dict[str, Cell]]:
    """Vanilla, one row, another row, for table after table."""
    rows: list[dict[str, Cell]] = [{} for _ in range(3 * TABLES)]
    place = np.repeat(np.arange(len(design.sizes)), design.sizes)
    strata = [str(number % design.strata) for number in place]
    for number in range(design.benchmarks):
        clusters = [f"{number} {cluster}" for cluster in place]
        vanilla, one, other = design.chances
        chances = (vanilla, *[one] * design.seeds, other)
        right = answers(generator, TABLES, design.sizes, chances)
        for table in range(TABLES):
            runs = right[table].T.tolist()
            for row, those in enumerate((runs[:1], runs[1:-1], runs[-1:])):
                rows[3 * table + row][str(number)] = cell(*those, clusters=clusters, strata=strata)
    return rows


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_intervals_hold_the_truth(design: Design) -> None:
    found = ratios(_rows(design, np.random.default_rng(1)), [3 * (place // 3) for place in range(3 * TABLES)])
    vanilla, one, other = design.chances
    truth, apart = 100 * one / vanilla, 100 * (one - other) / vanilla
    held = [0, 0]
    for table in range(TABLES):
        first, second = (list(found[3 * table + row].values()) for row in (1, 2))
        assert len(first) == design.benchmarks
        paired = difference(first, second)
        assert paired is not None
        held[0] += interval(first).holds(truth)
        held[1] += paired.holds(apart)
    print(f"\ncoverage of an average {held[0] / TABLES:.1%}, of a difference {held[1] / TABLES:.1%}")
    assert all(0.93 <= count / TABLES <= 0.97 for count in held), held
