"""Which visual tokens a cell of a scene belongs to, against counting the small cubes that two boxes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.evidence import SHARE, evidence_mask
from model_wrappers.errors import UserError

SIDE = 24
"""Small cubes along each axis of the unit cube; every box below ends on one of their faces."""


def cubes(box: list[float]) -> np.ndarray[Any, Any]:
    """[SIDE, SIDE, SIDE] bool: the small cubes in (t0, t1, y0, y1, x0, x1); none for a box of NaN."""
    filled = np.zeros((SIDE, SIDE, SIDE), dtype=bool)
    if not np.isnan(box[0]):
        t0, t1, y0, y1, x0, x1 = (round(end * SIDE) for end in box)
        filled[t0:t1, y0:y1, x0:x1] = True
    return filled


def boxes(grid: list[int]) -> list[list[float]]:
    """The cells of a T x H x W grid in time, row, column order."""
    t, h, w = grid
    return [
        [a / t, (a + 1) / t, b / h, (b + 1) / h, c / w, (c + 1) / w]
        for a in range(t)
        for b in range(h)
        for c in range(w)
    ]


def literal(grid: list[int], cells: list[list[int]], tokens: list[list[float]]) -> list[bool]:
    _, h, w = grid
    scene = [cubes(boxes(grid)[(t * h + row) * w + column]) for t, row, column in cells]
    shown = [cubes(token) for token in tokens]
    return [any((cell & token).sum() >= SHARE * min(cell.sum(), token.sum()) > 0 for cell in scene) for token in shown]


@pytest.mark.parametrize("seed", range(40))
def test_against_counting(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = [int(random.choice([1, 2, 4, 8])), *(int(side) for side in random.choice([2, 3, 4, 6], 2))]
    cells = [[int(random.integers(0, side)) for side in grid] for _ in range(2)]
    tokens = boxes([int(random.choice([1, 3, 4, 8])), *(int(side) for side in random.choice([2, 3, 6, 8, 12], 2))])
    for _ in range(40):  # and boxes anywhere, which overlap, as tiles do
        low = random.integers(0, SIDE, 3)
        high = [int(random.integers(start + 1, SIDE + 1)) for start in low]
        tokens.append([end / SIDE for pair in zip(low, high, strict=True) for end in pair])
    tokens.append([float("nan")] * 6)
    expected = literal(grid, cells, tokens)
    entry = {"grid": grid, "cells": cells}
    assert evidence_mask(entry, torch.tensor(tokens, dtype=torch.float32), "here").tolist() == expected
    assert any(expected) and not all(expected)


def test_on_the_scenes_own_grid_a_cell_is_its_token() -> None:
    entry = {"grid": [4, 2, 3], "cells": [[0, 0, 1], [3, 1, 0]]}
    mask = evidence_mask(entry, torch.tensor(boxes([4, 2, 3])), "here")
    assert mask.nonzero().flatten().tolist() == [1, 21] and mask.dtype == torch.bool


def test_no_cells_are_no_evidence_and_cells_that_nothing_shows_are_a_fault() -> None:
    tokens = torch.tensor([[0.0, 1.0, 0.0, 0.5, 0.0, 1.0]])
    assert evidence_mask({"grid": [1, 2, 2], "cells": []}, tokens, "here").tolist() == [False]
    with pytest.raises(UserError, match=r"^here: no visual token shows"):
        evidence_mask({"grid": [1, 2, 2], "cells": [[0, 1, 0]]}, tokens, "here")
    for cell in ([1, 0, 0], [0, -1, 0], [0, 0, 2]):
        with pytest.raises(UserError, match=r"^here: cell \[.*\] lies outside the grid of 1 x 2 x 2"):
            evidence_mask({"grid": [1, 2, 2], "cells": [cell]}, tokens, "here")
