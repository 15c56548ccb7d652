"""Which visual tokens a prompt keeps: the one tie rule, and the record of what was done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_wrappers.anatomy import tokens_a_frame, visual_token_ids
from model_wrappers.errors import UserError
from model_wrappers.methods.base import LayerPruner, Merger, Method, Scorer, Selector
from model_wrappers.prompt import VisualPrompt
from model_wrappers.rounding import budget as budget
from model_wrappers.rounding import check_keep as check_keep


@dataclass(frozen=True, eq=False)
class Record:
    """What was asked and what was done for one prompt."""

    visual: int
    """N_v, visual tokens of the prompt."""
    keep: float
    """The share asked for."""
    kept: Tensor
    """[k] long, sorted: indices into the prompt's visual tokens; after its last cut, where a method cuts in layers. Of
    merged tokens those in whose places they stand."""
    kv_visual: list[int] = field(default_factory=list)
    """Visual tokens in the KV cache of each decoder layer, after the prefill."""
    scoring_seconds: float = 0.0
    """Time spent to find out which tokens to keep."""
    made: int | None = None
    """Visual tokens that the vision encoder made of a cheaper input; none of the prompt's own is kept then, and `kept`
    is empty. None for every method that works on the full one."""
    worked: list[int] | None = None
    """Visual tokens that each decoder layer worked on, where a method then cut its cache; None: as many as it holds."""

    @property
    def by_layer(self) -> list[int]:
        """Visual tokens that each decoder layer worked on."""
        return self.kv_visual if self.worked is None else self.worked

    @property
    def realised(self) -> int:
        """Visual tokens that were kept, or made of a cheaper input."""
        return len(self.kept) if self.made is None else self.made


def ranked(scores: Tensor) -> Tensor:
    """[N] long: places of `scores` [N], the highest first; of equal scores the lower place.

    Raises:
        ValueError: if a score is not finite, since what would be kept is then an accident.
    """
    scores = scores.detach().float()
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("a method gave scores that are not finite")
    return torch.sort(scores, descending=True, stable=True).indices


def top(scores: Tensor, k: int) -> Tensor:
    """[k] long, sorted by place: the k first of `ranked`."""
    return ranked(scores)[:k].sort().values


class Choice(NamedTuple):
    """What a method leaves of a prompt's visual tokens at the language model's input."""

    kept: Tensor
    """[k] long, sorted."""
    seconds: float
    """What it took to find out."""
    merged: Tensor | None = None
    """[k, d] embeddings that stand in their places; None leaves the tokens' own."""


def choose(model: Any, prompt: VisualPrompt, method: Method, keep: float) -> Choice:
    """Which visual tokens `method` keeps at the language model's input: all, where it cuts between layers alone.

    Scores are remembered in `prompt.cache[method]`: they are the same for every `keep`.

    Raises:
        UserError: the method is not defined for what the prompt shows.
    """
    n_visual = prompt.n_visual
    k = budget(keep, n_visual)
    everything = Choice(torch.arange(n_visual, device=prompt.visual.device), 0.0)
    if k == n_visual:
        return everything
    check_media(model, method, prompt)
    last_is_visual = bool(prompt.visual[-1])
    if isinstance(method, Scorer):
        scores, seconds = _scores(model, prompt, method)
        if last_is_visual:  # the last row predicts the answer's first token: it is never cut
            scores = scores.clone()
            scores[-1] = torch.finfo(scores.dtype).max
        return Choice(top(scores, k), seconds)
    if isinstance(method, Selector):
        with stopwatch(prompt.visual.device) as watch:
            kept = method.select(model, prompt, k)
        if last_is_visual and int(kept[-1]) != n_visual - 1:
            kept = torch.cat((kept[:-1], kept.new_tensor([n_visual - 1])))
        if kept.shape != (k,) or not rises(kept, n_visual):
            raise ValueError(f"{type(method).__name__} was to give {k} sorted indices below {n_visual}, gave {kept}")
        return Choice(kept, watch.seconds)
    if isinstance(method, Merger):
        # What the vision encoder knew is worked out once a prompt; each keep needs it.
        owed = prompt.cache.get("vision_seconds", 0.0) if method.needs_vision else 0.0
        with stopwatch(prompt.visual.device) as watch:
            merged, kept = method.merge(model, prompt, k)
        if merged.shape[:1] != kept.shape or not rises(kept, n_visual):
            raise ValueError(
                f"{type(method).__name__} was to give embeddings and as many sorted indices below {n_visual}, gave "
                f"{tuple(merged.shape)} and {kept}"
            )
        if last_is_visual and int(kept[-1]) != n_visual - 1:
            kept = torch.cat((kept[:-1], kept.new_tensor([n_visual - 1])))
            merged = torch.cat((merged[:-1], prompt.inputs_embeds[-1:].to(merged)))
        return Choice(kept, watch.seconds + owed, merged)
    if isinstance(method, LayerPruner):
        return everything
    raise TypeError(f"{type(method).__name__} does not cut at the language model's input")


def check_media(model: Any, method: Method, prompt: VisualPrompt) -> None:
    """UserError where the method is not defined for what the prompt shows.

    A model that takes a video's frames as images (VILA) does not tell which they are: one image alone is no video.
    """
    if prompt.media in method.media or not prompt.n_visual:
        return
    if len(visual_token_ids(model)) > 1 or prompt.n_visual <= tokens_a_frame(model):
        raise UserError(
            f"{type(method).__name__} is defined for {' and '.join(sorted(method.media))} prompts, not for this "
            f"{prompt.media} prompt"
        )


def rises(kept: Tensor, n_visual: int) -> bool:
    """Whether these are sorted indices below n_visual, each once, and at least one."""
    return len(kept) > 0 and bool((kept[1:] > kept[:-1]).all()) and 0 <= int(kept[0]) and int(kept[-1]) < n_visual


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
    settle(device)
    start = time.perf_counter()
    yield watch
    settle(device)
    watch.seconds = time.perf_counter() - start


def settle(device: torch.device) -> None:
    """Waits for the work that a device has queued; a CPU queues none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
