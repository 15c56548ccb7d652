"""One encoded prompt: what the language model is given and all that a method may look at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(eq=False)
class VisualPrompt:
    """One prompt after the vision encoder and before the language model, without padding.

    L is its length in tokens, N_v the number of its visual tokens, d the language model's width.
    """

    input_ids: Tensor
    """[L] token ids; a visual token holds the family's placeholder id."""
    inputs_embeds: Tensor
    """[L, d] embeddings, the vision features already in their places."""
    visual: Tensor
    """[L] bool: which rows are visual tokens. Never a start and an end: text may stand between."""
    position_ids: Tensor
    """[3, L] M-RoPE rows (time, height, width), or [1, L] where a family counts its rows; uncut."""
    next_position: int
    """Position of the first generated token: it follows the last row of the *uncut* prompt."""
    grids: list[tuple[int, int, int]]
    """(time, height, width) in visual tokens of each image or video, in the order of the prompt; (1, 1, n) for each run
    of n visual tokens where positions are one-dimensional."""
    sample_id: str
    """Seeds the methods that draw: same prompt, same draw. A digest of the content unless the caller knows better."""
    media: Literal["image", "video"] = "image"
    """What its visual tokens show: "video" where a video placeholder is among them, or where the family's class says
    that its images are the frames of a video (VILA, whose only placeholder is an image's)."""
    extents: Tensor | None = None
    """[N_v, 6] float32 (t0, t1, y0, y1, x0, x1): the part of the whole visual input that each visual token shows.

    Fractions in [0, 1]. Time is a video's own; of T images in a prompt each is one T-th of it, in their order. y goes
    down and x to the right, in the token's own image. A token that shows no place (an image_newline) has six NaN.
    Extents may overlap (the tiles of an image and the whole of it). None unless a family's class fills it.
    """
    evidence: Tensor | None = None
    """[N_v] bool: the visual tokens that the question is about, where a generator of scenes knows them."""
    vision: Any = None
    """What the vision encoder knew of the visual tokens, a `model_wrappers.vision.VisionView`; None where nobody
    watched it."""
    cache: dict[Any, Any] = field(default_factory=dict)
    """Memory of this prompt: scores by method, the model's own response (`response_ids`), and their costs."""

    @cached_property
    def visual_rows(self) -> Tensor:
        """[N_v] long: the rows of the visual tokens."""
        return self.visual.nonzero().squeeze(1)

    @property
    def n_visual(self) -> int:
        """N_v, the number of visual tokens."""
        return self.visual_rows.shape[0]

    @cached_property
    def instruction(self) -> Tensor:
        """[L] bool: all rows after the last visual token, the template's tail included (every row without one)."""
        mask = torch.ones_like(self.visual)
        if self.n_visual:
            mask[: int(self.visual_rows[-1]) + 1] = False
        return mask

    def rows_kept(self, kept: Tensor) -> Tensor:
        """[L'] long: the rows that stay, all the text and the visual tokens `kept` ([k] indices among them)."""
        stay = ~self.visual
        stay[self.visual_rows[kept]] = True
        return stay.nonzero().squeeze(1)


def as_batch(position_ids: Tensor) -> Tensor:
    """Positions of one prompt as its decoder takes them: [3, L] M-RoPE rows to [3, 1, L]; [1, L] is a batch already."""
    return position_ids[:, None] if position_ids.shape[0] > 1 else position_ids


def split_batch(
    input_ids: Tensor,
    inputs_embeds: Tensor,
    position_ids: Tensor,
    attention_mask: Tensor | None,
    visual_ids: tuple[int, ...],
    sample_ids: list[str] | None = None,
) -> list[VisualPrompt]:
    """Takes a padded batch apart into prompts without padding.

    Args:
        input_ids: [B, L] token ids.
        inputs_embeds: [B, L, d] embeddings with the vision features in place.
        position_ids: [3, B, L] M-RoPE rows, or [1, B, L].
        attention_mask: [B, L], 0 where padded; None where nothing is.
        visual_ids: placeholder ids of visual tokens (image, video).
        sample_ids: one a prompt; None takes a digest of the unpadded ids and grids.
    """
    prompts = []
    for row in range(input_ids.shape[0]):
        ids, embeds, positions = input_ids[row], inputs_embeds[row], position_ids[:, row]
        if attention_mask is not None and not bool((real := attention_mask[row].bool()).all()):
            ids, embeds, positions = ids[real], embeds[real], positions[:, real]
        visual = ids == visual_ids[0]
        for token in visual_ids[1:]:
            visual = visual | (ids == token)
        grids = _grids(ids, visual, positions)
        prompts.append(
            VisualPrompt(
                input_ids=ids,
                inputs_embeds=embeds,
                visual=visual,
                position_ids=positions,
                next_position=int(positions[:, -1].max()) + 1,
                grids=grids,
                media="video" if any(bool((ids == token).any()) for token in visual_ids[1:]) else "image",
                sample_id=sample_ids[row] if sample_ids is not None else _digest(ids, grids),
            )
        )
    return prompts


def _grids(ids: Tensor, visual: Tensor, positions: Tensor) -> list[tuple[int, int, int]]:
    """Reads each image's or video's grid off its M-RoPE positions; one-dimensional positions tell no more than lengths.

    Inside the model's forward the grids are gone (generate() runs the vision encoder before), their positions are not.
    """
    grids = []
    listed, token_of = visual.tolist(), ids.tolist()
    start = None
    for row in range(len(listed) + 1):
        inside = row < len(listed) and listed[row]
        if start is not None and (not inside or token_of[row] != token_of[start]):
            if positions.shape[0] == 3:
                run = positions[:, start:row]
                time, height, width = (run.amax(dim=1) - run.amin(dim=1) + 1).tolist()
            else:
                time, height, width = 1, 1, row - start
            grids.append((time, height, width))
            start = None
        if inside and start is None:
            start = row
    return grids


def _digest(ids: Tensor, grids: list[tuple[int, int, int]]) -> str:
    content = hashlib.sha256(ids.to("cpu", torch.int64).numpy().tobytes())
    content.update(repr(grids).encode())
    return content.hexdigest()[:32]
