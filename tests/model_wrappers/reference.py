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
def masked_logits(model: Any, prompt: VisualPrompt, cuts: dict[int, Tensor], answer: Tensor) -> Tensor:
    """Logits [T, vocabulary] of the rows that predict `answer` [T].

    `cuts`: {layer from which on: the prompt's visual tokens that are left}.
    """
    decoder = model.model.language_model
    embeds = torch.cat((prompt.inputs_embeds, model.get_input_embeddings()(answer[:-1])))
    after = prompt.next_position + torch.arange(len(answer) - 1)
    positions = torch.cat((prompt.position_ids, after.expand(prompt.position_ids.shape[0], -1)), dim=1)
    length = embeds.shape[0]
    causal = torch.full((length, length), float("-inf")).triu(1)
    places = prompt.visual.nonzero().squeeze(1)
    hidden = embeds[None]
    # M-RoPE tables take [3, 1, length], others [1, length].
    rotary = decoder.rotary_emb(hidden, positions[:, None] if len(positions) == 3 else positions)
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    try:
        for index, layer in enumerate(decoder.layers):
            mask = causal.clone()
            for kept in [kept for first, kept in cuts.items() if index >= first]:
                cut = torch.ones(prompt.n_visual, dtype=torch.bool)
                cut[kept] = False
                mask[:, places[cut]] = float("-inf")
                mask.fill_diagonal_(0.0)  # a row that sees nothing would be NaN; cut rows are looked at by none
            hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary)
    finally:
        decoder.config._attn_implementation = before
    return model.lm_head(decoder.norm(hidden))[0, -len(answer) :]
