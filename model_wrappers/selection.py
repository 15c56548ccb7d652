"""Which visual tokens a prompt keeps: the one rounding rule, the one tie rule, and the record of what was done."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Method, Scorer, Selector
from model_wrappers.prompt import VisualPrompt


@dataclass(frozen=True, eq=False)
class Record:
    """What was asked and what was done for one prompt."""

    visual: int
    """N_v, visual tokens of the prompt."""
    keep: float
    """The share asked for."""
    kept: Tensor
    """[k] long, sorted: indices into the prompt's visual tokens; after its last cut, where a method cuts in layers."""
    kv_visual: list[int] = field(default_factory=list)
    """Visual tokens in the KV cache of each decoder layer."""
    scoring_seconds: float = 0.0
    """Time spent to find out which tokens to keep."""


def check_keep(keep: float) -> float:
    """Returns `keep` as a float.

    Raises:
        UserError: unless 0 < keep <= 1.
    """
    if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 < keep <= 1:
        raise UserError(f"keep={keep!r}: the share of visual tokens to keep is a number above 0 and at most 1")
    return float(keep)


def budget(keep: float, n_visual: int) -> int:
    """Tokens to keep out of `n_visual`: max(1, floor(keep * n_visual + 0.5)), or 0 where there is none."""
    return min(n_visual, max(1, math.floor(keep * n_visual + 0.5))) if n_visual else 0


def top(scores: Tensor, k: int) -> Tensor:
    """[k] long, sorted by place: the k highest of `scores` [N]; of equal scores the one with the lower index.

    Raises:
        ValueError: if a score is not finite, since what would be kept is then an accident.
    """
    scores = scores.detach().float()
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("a method gave scores that are not finite")
    return torch.sort(scores, descending=True, stable=True).indices[:k].sort().values


def choose(model: Any, prompt: VisualPrompt, method: Method, keep: float) -> tuple[Tensor, float]:
    """The visual tokens ([k] long, sorted) that `method` keeps at the language model's input, and the seconds it took.

    Scores are remembered in `prompt.cache[method]`: they are the same for every `keep`.
    """
    n_visual = prompt.n_visual
    k = budget(keep, n_visual)
    if k == n_visual:
        return torch.arange(n_visual, device=prompt.visual.device), 0.0
    last_is_visual = bool(prompt.visual[-1])
    if isinstance(method, Scorer):
        scores, seconds = _scores(model, prompt, method)
        if last_is_visual:  # the last row predicts the answer's first token: it is never cut
            scores = scores.clone()
            scores[-1] = torch.finfo(scores.dtype).max
        return top(scores, k), seconds
    if isinstance(method, Selector):
        with stopwatch(prompt.visual.device) as watch:
            kept = method.select(model, prompt, k)
        if last_is_visual and int(kept[-1]) != n_visual - 1:
            kept = torch.cat((kept[:-1], kept.new_tensor([n_visual - 1])))
        rising = bool((kept[1:] > kept[:-1]).all()) and 0 <= int(kept[0]) and int(kept[-1]) < n_visual
        if kept.shape != (k,) or not rising:
            raise ValueError(f"{type(method).__name__} was to give {k} sorted indices below {n_visual}, gave {kept}")
        return kept, watch.seconds
    raise TypeError(f"{type(method).__name__} does not cut at the language model's input")


def _scores(model: Any, prompt: VisualPrompt, method: Scorer) -> tuple[Tensor, float]:
    if method not in prompt.cache:
        # A response found in the cache was paid for by whoever put it there; the method still needs it.
        owed = prompt.cache.get("response_seconds", 0.0) if method.needs_response else 0.0
        with stopwatch(prompt.visual.device) as watch:
            scores = method.score(model, prompt).detach().float()
        if scores.shape != (prompt.n_visual,):
            raise ValueError(
                f"{type(method).__name__} was to give {prompt.n_visual} scores, gave {tuple(scores.shape)}"
            )
        prompt.cache[method] = scores
        prompt.cache[method, "seconds"] = watch.seconds + owed
    return prompt.cache[method], prompt.cache.get((method, "seconds"), 0.0)


class Watch:
    """Seconds of one `with stopwatch(...)`."""

    seconds: float = 0.0


@contextmanager
def stopwatch(device: torch.device) -> Iterator[Watch]:
    """Wall time of the block; on CUDA up to the end of the work it queued."""
    watch = Watch()
    _settle(device)
    start = time.perf_counter()
    yield watch
    _settle(device)
    watch.seconds = time.perf_counter() - start


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
