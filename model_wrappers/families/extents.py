"""Which part of the visual input each visual token shows (`VisualPrompt.extents`), from grids and sizes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

NOWHERE = torch.full((1, 6), float("nan"))
"""The extent of a token that shows no place."""


def cells(time: tuple[float, float], y_edges: Tensor, x_edges: Tensor) -> Tensor:
    """Extents [rows * columns, 6] of a grid's cells, row by row, all at one stretch of time.

    Args:
        time: its start and end, as fractions.
        y_edges: [rows + 1] fractions of the height, rising.
        x_edges: [columns + 1] fractions of the width, rising.
    """
    rows, columns = len(y_edges) - 1, len(x_edges) - 1
    top, bottom = y_edges[:-1, None].expand(-1, columns), y_edges[1:, None].expand(-1, columns)
    left, right = x_edges[None, :-1].expand(rows, -1), x_edges[None, 1:].expand(rows, -1)
    start, end = torch.full_like(top, time[0]), torch.full_like(top, time[1])
    return torch.stack((start, end, top, bottom, left, right), dim=-1).reshape(-1, 6).float()


def grid(time: tuple[float, float], rows: int, columns: int) -> Tensor:
    """Extents [rows * columns, 6] of equal cells over a whole image, row by row."""
    return cells(time, _equal(rows), _equal(columns))


def video(times: int, rows: int, columns: int) -> Tensor:
    """Extents [times * rows * columns, 6] of a video of `times` equal stretches, each a grid over its whole frame."""
    return torch.cat([grid((index / times, (index + 1) / times), rows, columns) for index in range(times)])


def anyres(
    size: tuple[int, int],
    time: tuple[float, float],
    *,
    pinpoints: list[list[int]],
    tile: int,
    side: int,
    most: int,
) -> Tensor:
    """Extents [n, 6] of an image in LLaVA-OneVision: the whole of it, squashed; then its tiles, a newline a row.

    Follows `pack_image_features` of Hugging Face's class: the image is fitted into the canvas with its shape kept, the
    grid of the tiles loses the rows or columns that are only padding, and shrinks where it is above `most` tiles.
    Each of a tile's `side` x `side` tokens is taken to show an equal share of it.

    Args:
        size: height and width of the image in pixels.
        time: its start and end, as fractions.
        pinpoints: the canvases, (height, width) in pixels.
        tile: side of a tile in pixels.
        side: tokens along the side of a tile.
        most: the number in ``anyres_max_9``.
    """
    height, width = size
    canvas = select_best_resolution((height, width), pinpoints)
    rows, columns = canvas[0] // tile * side, canvas[1] // tile * side
    # The fitted image on the canvas, in pixels.
    scale = min(canvas[0] / height, canvas[1] / width)
    fitted = [min(math.ceil(length * scale), limit) for length, limit in zip(size, canvas, strict=True)]
    # What is taken off as padding, in tokens; the rounding is Hugging Face's.
    off_y = off_x = 0
    if width / height > columns / rows:
        off_y = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        off_x = (columns - int(round(width * (rows / height), 7))) // 2
    left_rows, left_columns = rows - 2 * off_y, columns - 2 * off_x
    out_rows, out_columns = left_rows, left_columns
    ratio = math.sqrt(left_rows * left_columns / (most * side**2))
    if ratio > 1.1:
        out_rows, out_columns = int(left_rows // ratio), int(left_columns // ratio)
    edges = []
    for axis, (off, left, out, total) in enumerate(
        ((off_y, left_rows, out_rows, rows), (off_x, left_columns, out_columns, columns))
    ):
        pixels = (off + _equal(out) * left) * (canvas[axis] / total)
        edges.append(((pixels - (canvas[axis] - fitted[axis]) // 2) / fitted[axis]).clamp(0.0, 1.0))
    tiles = cells(time, *edges).view(out_rows, out_columns, 6)
    lines = torch.cat((tiles, NOWHERE.expand(out_rows, 1, 6)), dim=1).reshape(-1, 6)
    return torch.cat((grid(time, side, side), lines))


def in_places(input_ids: Tensor, extents: dict[int, list[Tensor]]) -> Tensor:
    """Extents [N_v, 6] of a prompt's visual tokens in their order.

    Args:
        input_ids: [L], without padding.
        extents: placeholder id -> extents of each image, or of each video, in their order.
    """
    kinds = input_ids[torch.isin(input_ids, torch.tensor(list(extents)))]
    found = torch.empty((len(kinds), 6))
    for token, parts in extents.items():
        found[kinds == token] = torch.cat(parts) if parts else torch.empty((0, 6))
    return found


def _equal(count: int) -> Tensor:
    """[count + 1] edges of equal parts of [0, 1]."""
    return torch.arange(count + 1, dtype=torch.float64) / count
