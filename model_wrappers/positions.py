"""What the language model is given in the place of a prompt once tokens are cut: the rows left and their positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model_wrappers.prompt import VisualPrompt


@dataclass(frozen=True, eq=False)
class Shortened:
    """A prompt after a cut at the language model's input; L' is its length."""

    embeds: Tensor
    """[L', d]"""
    positions: Tensor
    """[3, L'] M-RoPE rows, or [1, L']."""
    next_position: int
    """Of the first generated token."""


def shorten(prompt: VisualPrompt, kept: Tensor, positions: str, merged: Tensor | None = None) -> Shortened:
    """The text of `prompt` and the visual tokens `kept` ([k] sorted indices among them).

    Args:
        positions: "own" or "renumber", see `Method.positions`.
        merged: [k, d] embeddings that stand in the places of `kept`; None leaves the tokens' own.
    """
    rows = prompt.rows_kept(kept)
    embeds = prompt.inputs_embeds[rows]
    if merged is not None:
        embeds[prompt.visual[rows]] = merged.to(embeds)
    if positions == "own":
        return Shortened(embeds, prompt.position_ids[:, rows], prompt.next_position)
    closed = renumbered(prompt, rows)
    return Shortened(embeds, closed, int(closed[:, -1].max()) + 1)


def renumbered(prompt: VisualPrompt, rows: Tensor) -> Tensor:
    """Positions of the rows that are left ([L']), without the gaps that the others leave: [3, L'] or [1, L'].

    One-dimensional positions become 0 .. L'-1. M-RoPE knows a picture by a grid, so there it is the grid that closes:
    a frame, row or column of which no token is left takes no number, and the tokens left keep their order on each of
    the three axes, in whatever order the rows are. Text counts on after the larger of the rows and columns left, as
    transformers has it for the uncut grid (a video's frames may reach further). Nothing cut, nothing changed.
    """
    if prompt.position_ids.shape[0] == 1:
        return torch.arange(len(rows), device=rows.device)[None]
    rows, order = rows.sort()
    kind = torch.where(prompt.visual, prompt.input_ids, -1)
    run = torch.cat((kind.new_zeros(1), (kind[1:] != kind[:-1]).long().cumsum(0)))[rows]
    start, parts = 0, []
    for part in prompt.position_ids[:, rows].split(run.unique_consecutive(return_counts=True)[1].tolist(), dim=1):
        parts.append(start + torch.stack([axis.unique(return_inverse=True)[1] for axis in part]))
        start = int(parts[-1][-2:].max()) + 1
    return torch.cat(parts, dim=1)[:, order.argsort()]


def left_pad(rows: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows [L_i, ...] of several prompts as one [B, L', ...], padded with zeros on the left, and its [B, L'] mask.

    The mask is None where nothing is padded. Of row indices the padded places point at index 0; the mask hides them.
    """
    width = max(len(row) for row in rows)
    index = torch.stack([torch.nn.functional.pad(row, (0, 0) * (row.ndim - 1) + (width - len(row), 0)) for row in rows])
    if all(len(row) == width for row in rows):
        return index, None
    real = torch.stack([torch.arange(width, device=row.device) >= width - len(row) for row in rows])
    return index, real
