"""The methods that cut inside the language model, written a second time: slowly, in loops, from the published code.

Nothing of model_wrappers decides anything here. The model runs layer by layer on the rows that are left, without a
cache; the answer's rows follow the prompt's, as a cut looks at the prompt's alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model_wrappers.prompt import VisualPrompt
from tests.model_wrappers.reference import counted_anew


class State(NamedTuple):
    """What a cut at the input of layer `index` may look at."""

    prompt: VisualPrompt
    decoder: Any
    index: int
    entered: Tensor
    """[L, d], what entered the layer before the cut."""
    hidden: Tensor
    """[L, d], what would enter layer `index`."""
    rope: tuple[Tensor, Tensor]
    """(cos, sin), each [L, head_dim]."""
    visual: list[int]
    """Rows of visual tokens."""


class Left(NamedTuple):
    """What a cut leaves."""

    kept: list[int]
    """Places among `State.visual`, rising."""
    means: list[tuple[int, Tensor]] = []
    """Rows behind them: in whose place, and what."""


class Outcome(NamedTuple):
    """Of the whole model."""

    logits: Tensor
    """[T, vocabulary] of the rows that predict the answer."""
    kept: list[int]
    """Visual tokens of the prompt after the last cut, in the order of their rows."""
    counts: list[int]
    """Visual tokens in each layer."""
    states: dict[int, Tensor]
    """By cut [L', d]: what enters the layer."""
    positions: Tensor
    """[3 or 1, L' + T - 1] in the last layer."""


@torch.no_grad()
def run(model: Any, prompt: VisualPrompt, name: str, keep: float, answer: Tensor, positions: str) -> Outcome:
    """The method `name` with the fields of its published code."""
    decoder = model.model.language_model
    plan = PLANS[name](len(decoder.layers), keep, prompt.n_visual)
    rows = list(range(len(prompt.input_ids)))
    hidden = torch.cat((prompt.inputs_embeds, model.get_input_embeddings()(answer[:-1])))
    numbers, following = prompt.position_ids, prompt.next_position
    entered, counts, states = hidden, [], {}
    table: Any = None
    decoder.config._attn_implementation, before = "eager", decoder.config._attn_implementation
    try:
        for index, layer in enumerate(decoder.layers):
            if index in plan:
                visual = [place for place, row in enumerate(rows) if prompt.visual[row]]
                length = len(rows)
                cos, sin = (part[0, :length] for part in table)
                state = State(prompt, decoder, index, entered[:length], hidden[:length], (cos, sin), visual)
                left = CUTS[name](state, plan[index])
                stay = [place for place in range(length) if place not in visual or visual.index(place) in left.kept]
                behind = stay.index(visual[left.kept[-1]]) + 1
                parts = [hidden[stay[:behind]], *(mean[None] for _, mean in left.means), hidden[stay[behind:]]]
                places = stay[:behind] + [visual[place] for place, _ in left.means] + stay[behind:]
                states[index] = torch.cat(parts)
                hidden = torch.cat((states[index], hidden[length:]))
                rows = [rows[place] for place in places]
                numbers, following = _numbers(prompt, rows, positions)
            after = following + torch.arange(len(answer) - 1)
            line = torch.cat((numbers, after.expand(numbers.shape[0], -1)), dim=1)
            table = decoder.rotary_emb(hidden[None], line[:, None] if len(line) == 3 else line)
            mask = torch.full((len(hidden), len(hidden)), float("-inf")).triu(1)
            entered = hidden
            hidden = layer(hidden[None], attention_mask=mask[None, None], position_embeddings=table)[0]
            counts.append(sum(bool(prompt.visual[row]) for row in rows))
    finally:
        decoder.config._attn_implementation = before
    tokens = prompt.visual_rows.tolist()
    kept = [tokens.index(row) for row in rows if prompt.visual[row]]
    logits = model.lm_head(decoder.norm(hidden))[-len(answer) :]
    return Outcome(logits, kept, counts, states, line)


def _numbers(prompt: VisualPrompt, rows: list[int], positions: str) -> tuple[Tensor, int]:
    if positions == "own":
        return prompt.position_ids[:, rows], prompt.next_position
    if len(prompt.position_ids) == 1:
        return torch.arange(len(rows))[None], len(rows)
    tokens = prompt.visual_rows.tolist()
    numbers, following = counted_anew(prompt, [tokens.index(row) for row in rows if prompt.visual[row]])
    return numbers[:, rows], following


def attention(layer: Any, hidden: Tensor, row: int, rope: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of each query head [row + 1]: where `row` looks."""
    size = layer.self_attn.head_dim
    normed = layer.input_layernorm(hidden)
    queries, keys = layer.self_attn.q_proj(normed[row]), layer.self_attn.k_proj(normed)
    heads = len(queries) // size
    shared = heads // (keys.shape[1] // size)
    found = []
    for head in range(heads):
        query = turn(queries[head * size : (head + 1) * size], rope[0][row], rope[1][row])
        start = head // shared * size
        key = turn(keys[:, start : start + size], *rope)[: row + 1]
        found.append((key @ query / math.sqrt(size)).softmax(dim=0))
    return found


def turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    return states * cos + torch.cat((-states[..., half:], states[..., :half]), dim=-1) * sin


def best(scores: list[float], count: int) -> list[int]:
    """Places of the `count` highest, of equal ones the first; highest first."""
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count]


def rounded(share: float, count: int) -> int:
    """The one rounding rule."""
    return max(1, math.floor(share * count + 0.5))


# PyramidDrop: after each of three equal stretches of layers keep lambda, lambda^2, lambda^3 of the original count.


def pyramiddrop_plan(layers: int, keep: float, tokens: int) -> dict[int, int]:
    factor = keep ** (1 / 3)
    return {math.floor(layers * stage / 4 + 0.5): rounded(factor**stage, tokens) for stage in (1, 2, 3)}


def pyramiddrop(state: State, count: int) -> Left:
    layer = state.decoder.layers[state.index]
    looks = attention(layer, state.hidden, len(state.hidden) - 1, state.rope)
    scores = [sum(float(look[row]) for look in looks) / len(looks) for row in state.visual]
    return Left(sorted(best(scores, count)))


# SparseVLM, version 1.


def sparsevlm_plan(layers: int, keep: float, tokens: int) -> dict[int, int]:
    official = [0, 17, 36, 110, 576]
    plan: dict[int, int] = {}
    for after, counts in zip((2, 6, 15), ([0, 66, 303, 300, 576], [0, 30, 110, 200, 576], official), strict=True):
        layer = max([math.floor(layers * (after + 1) / 32 + 0.5), *(cut + 1 for cut in plan), 1])
        plan[layer] = rounded(float(np.interp(keep * 576, official, counts)) / 576, tokens)
    return plan


def sparsevlm(state: State, count: int) -> Left:
    prompt = state.prompt
    end = int(prompt.visual_rows[-1]) + 1
    text = range(end, len(prompt.input_ids))
    like = [0.0] * len(text)
    for token in prompt.visual_rows.tolist():
        products = torch.stack([prompt.inputs_embeds[token] @ prompt.inputs_embeds[row] for row in text])
        for place, share in enumerate(products.softmax(dim=0).tolist()):
            like[place] += share / prompt.n_visual
    raters = [place for place, share in enumerate(like) if share > sum(like) / len(like)]
    layer = state.decoder.layers[state.index - 1]
    scores = [0.0] * len(state.visual)
    for rater in raters:
        looks = attention(layer, state.entered, len(state.hidden) - len(text) + rater, state.rope)
        for place, row in enumerate(state.visual):
            scores[place] += sum(float(look[row]) for look in looks) / len(looks) / len(raters)
    kept = sorted(best(scores, min(count, len(scores) - 1)))
    dropped = [place for place in range(len(scores)) if place not in kept]
    chosen = best([scores[place] for place in dropped], int(len(dropped) * 0.3) + 1)
    back = [dropped[place] for place in chosen]
    centres, means = clusters([state.hidden[state.visual[place]] for place in back], int(len(back) / 10) + 1)
    return Left(kept, [(back[centre], mean) for centre, mean in zip(centres, means, strict=True)])


def clusters(tokens: list[Tensor], count: int) -> tuple[list[int], list[Tensor]]:
    """DPC-KNN, without the noise that the published code adds."""
    size = range(len(tokens))
    apart = [[float((one - other).norm()) / math.sqrt(len(one)) for other in tokens] for one in tokens]
    density = [math.exp(-sum(far**2 for far in sorted(row)[:count]) / count) for row in apart]
    widest = max(max(row) for row in apart)
    lone = [min([apart[one][two] for two in size if density[two] > density[one]], default=widest) for one in size]
    centres = best([lone[one] * density[one] for one in size], count)
    member = [min(range(count), key=lambda centre: apart[centres[centre]][one]) for one in size]
    for number, centre in enumerate(centres):
        member[centre] = number
    means = []
    for number in range(count):
        group = [token for token, cluster in zip(tokens, member, strict=True) if cluster == number]
        means.append(torch.stack(group).sum(dim=0) / (len(group) + 1e-6))
    return centres, means


# DART.


def dart_plan(layers: int, keep: float, tokens: int) -> dict[int, int]:
    return {2: int(tokens * keep / 8)}


def dart(state: State, each: int) -> Left:
    layer, size = state.decoder.layers[state.index - 1], state.decoder.layers[0].self_attn.head_dim
    raw = layer.self_attn.k_proj(layer.input_layernorm(state.entered))
    norms = []
    for row in range(len(state.hidden)):
        heads = [turn(part, state.rope[0][row], state.rope[1][row]) for part in raw[row].split(size)]
        norms.append(sum(float(head.abs().sum()) for head in heads))
    text = list(range(state.visual[-1] + 1, len(state.hidden)))
    image_pivots = [state.visual[place] for place in best([norms[row] for row in state.visual], 4)]
    text_pivots = [text[place] for place in best([norms[row] for row in text], 4)]
    last = state.decoder.norm(state.hidden)
    valid = [row for row in state.visual if row not in image_pivots]
    kept = list(image_pivots)
    for pivot in image_pivots + text_pivots:
        unlike = [-float(torch.cosine_similarity(last[pivot], last[row], dim=0)) for row in valid]
        taken = [valid[place] for place in best(unlike, each)]
        kept += taken
        valid = [row for row in valid if row not in taken]
    return Left(sorted(state.visual.index(row) for row in kept))


PLANS = {"pyramiddrop": pyramiddrop_plan, "sparsevlm": sparsevlm_plan, "dart": dart_plan}
"""{layer: what the cut at its input is told}, of a number of layers, a keep and N_v."""
CUTS: dict[str, Any] = {"pyramiddrop": pyramiddrop, "sparsevlm": sparsevlm, "dart": dart}


# DivPrune, which cuts at the input: the visual tokens kept.


def divprune(tokens: Tensor, count: int) -> list[int]:
    unit = [token / token.norm() for token in tokens]
    apart = [[1 - float(one @ other) for other in unit] for one in unit]
    chosen: list[int] = []
    for _ in range(count):
        if chosen:
            far = [min(apart[one][token] for one in chosen) for token in range(len(tokens))]
        else:
            far = [sorted(row)[1] for row in apart]
        chosen.append(best(far, 1)[0])
    return sorted(chosen)
