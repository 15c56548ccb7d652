"""An independent reference for cutting: the full-length model with the cut tokens hidden by a mask.

Nothing is shortened, no cache is used, no hook is set: each layer runs on every row, and from the layer of the cut on
no row may look at a cut token. The rows that stay then hold what they hold in a model that was really cut.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model_wrappers.prompt import VisualPrompt


@torch.no_grad()
def masked_logits(
    model: Any,
    prompt: VisualPrompt,
    cuts: dict[int, Tensor],
    answer: Tensor,
    positions: str = "own",
    trims: bool = False,
) -> Tensor:
    """Logits [T, vocabulary] of the rows that predict `answer` [T].

    `cuts`: {layer from which on: the prompt's visual tokens that are left}. `positions`: "renumber" counts the rows
    that are left anew from each cut on. `trims`: the answer's rows see in no layer what any cut takes, and only a cut
    at the input counts anew.
    """
    decoder = model.model.language_model
    embeds = torch.cat((prompt.inputs_embeds, model.get_input_embeddings()(answer[:-1])))
    numbers, following = prompt.position_ids, prompt.next_position
    length = embeds.shape[0]
    causal = torch.full((length, length), float("-inf")).triu(1)
    places = prompt.visual.nonzero().squeeze(1)
    hidden = embeds[None]
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    try:
        for index, layer in enumerate(decoder.layers):
            if positions == "renumber" and index in cuts and not (trims and index):
                numbers, following = counted_anew(prompt, cuts[index].tolist())
            after = following + torch.arange(len(answer) - 1)
            table = torch.cat((numbers, after.expand(numbers.shape[0], -1)), dim=1)
            # M-RoPE tables take [3, 1, length], others [1, length].
            rotary = decoder.rotary_emb(hidden, table[:, None] if len(table) == 3 else table)
            mask = causal.clone()
            for kept in [kept for first, kept in cuts.items() if index >= first]:
                cut = torch.ones(prompt.n_visual, dtype=torch.bool)
                cut[kept] = False
                mask[:, places[cut]] = float("-inf")
                mask.fill_diagonal_(0.0)  # a row that sees nothing would be NaN; cut rows are looked at by none
            for kept in cuts.values() if trims else ():
                gone = torch.ones(prompt.n_visual, dtype=torch.bool)
                gone[kept] = False
                mask[len(prompt.input_ids) :, places[gone]] = float("-inf")
            hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary)
    finally:
        decoder.config._attn_implementation = before
    return model.lm_head(decoder.norm(hidden))[0, -len(answer) :]


def counted_anew(prompt: VisualPrompt, kept: list[int]) -> tuple[Tensor, int]:
    """Positions [3 or 1, L] without the gaps that cut tokens leave (a cut row has 0), and the one that follows them."""
    places = prompt.visual_rows.tolist()
    left = {places[token] for token in kept}
    numbers = torch.zeros_like(prompt.position_ids)
    following, row = 0, 0
    while row < len(prompt.input_ids):
        if not prompt.visual[row]:
            numbers[:, row] = following
            following, row = following + 1, row + 1
            continue
        start = row
        while row < len(prompt.input_ids) and prompt.visual[row]:
            row += 1
        picture = [place for place in range(start, row) if place in left]
        if numbers.shape[0] == 1:
            for number, place in enumerate(picture, start=following):
                numbers[0, place] = number
        for axis in range(3 if numbers.shape[0] == 3 else 0):
            lines = sorted({int(prompt.position_ids[axis, place]) for place in picture})
            for place in picture:
                numbers[axis, place] = following + lines.index(int(prompt.position_ids[axis, place]))
        following = max([following, *(int(numbers[-2:, place].max()) + 1 for place in picture)])
    return numbers, following
