"""Which visual tokens a question is about, where a generator of scenes knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.25
"""A token and a cell belong together where they share this much of the smaller one's volume."""
ROUNDING = 1e-4
"""Extents are float32: a share of exactly `SHARE`, which grids of halves and thirds often have, may come out below."""


def evidence_mask(entry: dict[str, Any], extents: Tensor, where: str) -> Tensor:
    """The visual tokens that show one of the cells of an evidence file's entry.

    Args:
        entry: `{"grid": [T, H, W], "cells": [[t, row, column], ...]}`, cells of a scene cut into T x H x W.
        extents: [N_v, 6] float, (t0, t1, y0, y1, x0, x1) of each token in fractions; NaN for one that shows no place.
        where: what is read, for the message.

    Returns:
        [N_v] bool.

    Raises:
        UserError: a cell outside its grid, or cells that no token shows.
    """
    overlaps = overlap(entry["grid"], entry["cells"], extents, where)
    mask = (overlaps >= SHARE - ROUNDING).any(0)
    if len(entry["cells"]) and not bool(mask.any()):
        raise UserError(f"{where}: no visual token shows any of the cells {entry['cells']}")
    return mask


def overlap(grid: Sequence[int], cells: Sequence[Sequence[int]], extents: Tensor, where: str = "scene") -> Tensor:
    """[cells, N_v] float: volume shared by each cell and each token, as a share of the smaller of the two."""
    import torch

    size = torch.tensor(list(grid), dtype=torch.float32)
    at = torch.tensor([list(cell) for cell in cells], dtype=torch.float32).view(-1, 3)
    if bool(((at < 0) | (at >= size)).any()):
        outside = at[((at < 0) | (at >= size)).any(1)][0].int().tolist()
        shape = " x ".join(str(int(n)) for n in grid)
        raise UserError(f"{where}: cell {outside} lies outside the grid of {shape}")
    tokens = extents.to("cpu", torch.float32).view(-1, 3, 2)
    low, high = at / size, (at + 1) / size
    shared = torch.minimum(high[:, None], tokens[None, :, :, 1]) - torch.maximum(low[:, None], tokens[None, :, :, 0])
    volume = (tokens[:, :, 1] - tokens[:, :, 0]).prod(-1)
    smaller = torch.minimum((high - low).prod(-1)[:, None], volume[None])
    return (shared.clamp_min(0).prod(-1) / smaller).nan_to_num(0.0)
