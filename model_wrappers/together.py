"""Many answers to one prompt: cuts that leave equally many visual tokens are generated as one batch.

Nothing is padded: rows of one batch differ in which tokens they kept, not in how many. In float32 a row of a batch
gives the tokens that it gives alone (tests/model_wrappers/test_together.py); in half precision a batch's other order of
additions can tip an answer, so there each is generated alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from model_wrappers.anatomy import n_layers
from model_wrappers.compression import check, generate
from model_wrappers.errors import UserError
from model_wrappers.methods.base import InputTransform, LayerPruner, Method
from model_wrappers.positions import Shortened, shorten
from model_wrappers.prompt import VisualPrompt
from model_wrappers.relevance.response import run_generate
from model_wrappers.selection import Record, choose

Request = tuple[Method, float]
"""A method and a keep."""
Outcome = tuple[int, Tensor | Exception, Record | None, float]
"""Place of the request, its new token ids [T] or what went wrong, its record, seconds that it took."""


@torch.no_grad()
def generate_together(
    model: Any, prompt: VisualPrompt, requests: Sequence[Request], **generate_kwargs: Any
) -> Iterator[Outcome]:
    """What `generate` gives for each request, in any order, each as soon as it is there.

    A request that fails does not keep the others from their answers. The time of a batch is shared evenly.

    Raises:
        UserError: a keep outside (0, 1], or a model that a method cannot run on.
    """
    ends = _ends(model, generate_kwargs)
    batches: dict[int, list[tuple[int, Shortened, Record, float]]] = {}
    for place, (method, keep) in enumerate(requests):
        start = time.perf_counter()
        try:
            if not _joins(model, prompt, method, keep, generate_kwargs):
                tokens, record = generate(model, prompt, method, keep, **generate_kwargs)
                yield place, tokens, record, time.perf_counter() - start
                continue
            keep = check(model, method, keep)
            prompt.cache["generate_kwargs"] = generate_kwargs
            kept, scoring, merged = choose(model, prompt, method, keep)
        except UserError:
            raise
        except Exception as error:
            yield place, error, None, time.perf_counter() - start
            continue
        record = Record(prompt.n_visual, keep, kept.cpu(), [len(kept)] * n_layers(model), scoring)
        short = shorten(prompt, kept, method.positions, merged)
        batches.setdefault(len(kept), []).append((place, short, record, time.perf_counter() - start))
    for batch in batches.values():
        start = time.perf_counter()
        found: Tensor | Exception
        try:
            found = run_generate(model, prompt, [short for _, short, _, _ in batch], **generate_kwargs)
        except Exception as error:
            found = error
        share = (time.perf_counter() - start) / len(batch)
        for row, (place, _, record, before) in enumerate(batch):
            if isinstance(found, Exception):
                yield place, found, None, before + share
            else:
                yield place, _until_end(found[row], ends), record, before + share


def _joins(model: Any, prompt: VisualPrompt, method: Method, keep: float, generate_kwargs: dict[str, Any]) -> bool:
    """Whether a request may be a row of a batch: a greedy answer, in float32, to a prompt that is cut at its start."""
    greedy = not generate_kwargs.get("do_sample", model.generation_config.do_sample)
    exact = prompt.inputs_embeds.dtype == torch.float32
    at_input = not isinstance(method, InputTransform | LayerPruner)
    return greedy and exact and prompt.n_visual > 0 and keep < 1 and at_input


def _ends(model: Any, generate_kwargs: dict[str, Any]) -> set[int]:
    """Tokens that end an answer."""
    config = generate_kwargs.get("generation_config", model.generation_config)
    ends = generate_kwargs.get("eos_token_id", config.eos_token_id)
    return set(ends if isinstance(ends, list) else [ends])


def _until_end(tokens: Tensor, ends: set[int]) -> Tensor:
    """Without what pads a row that ended before others did."""
    for place, token in enumerate(tokens.tolist()):
        if token in ends:
            return tokens[: place + 1]
    return tokens
