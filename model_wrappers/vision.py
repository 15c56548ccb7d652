"""What a vision encoder knew of each visual token, for methods that ask: attention received, keys, frames.

While the encoder runs only the input of one of its layers is remembered, by reference; its output is not touched and
nothing is computed. The attention is worked out when a method asks, a block of query rows at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from model_wrappers.anatomy import VISION_CALLS, tower_layer, tower_projections, tower_to_tokens, visual_token_ids
from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt

ROWS = 512
"""Query rows whose attention is held at once."""


@dataclass(eq=False)
class Seen:
    """One call of the encoder, for all images or all videos of a batch."""

    core: Any
    kind: str
    layer_inputs: dict[str, Any]
    """What the layer before the last was called with; `hidden_states` first."""
    packing: dict[str, Any]
    """What its features were packed by, see `anatomy.tower_to_tokens`."""
    length: int
    """Features that the call gave."""

    @cached_property
    def tokens(self) -> Tensor:
        """[n, 1 + head_dim] float32, by visual token of the call: attention received and key, see `VisionView`."""
        with torch.no_grad():
            chunks = tower_projections(self.core, self.layer_inputs)
            patches = [torch.cat((_received(query, key)[:, None], plain), dim=1) for query, key, plain in chunks]
            return tower_to_tokens(self.core, self.kind, patches, self.packing)


def _received(query: Tensor, key: Tensor) -> Tensor:
    """[P] float32: post-softmax attention that each patch receives, mean over heads and query rows.

    query (scaled) and key [heads, P, head_dim]: patches that attend to each other.
    """
    total = key.new_zeros(key.shape[1], dtype=torch.float32)
    for rows in query.split(ROWS, dim=1):
        total += (rows @ key.transpose(1, 2)).softmax(dim=-1, dtype=torch.float32).sum(dim=(0, 1))
    return total / (query.shape[0] * query.shape[1])


class VisionWatch:
    """Remembers what the vision encoder of a model does inside a `with`; share() hands it out."""

    def __init__(self, model: Any) -> None:
        self.model, self.core = model, model.model
        self._seen: dict[str, Seen] = {}
        self._attached: list[str] = []

    def __enter__(self) -> VisionWatch:
        for kind, name in VISION_CALLS.items():  # put around the encoder's calls
            if hasattr(self.core, name):
                setattr(self.core, name, self._around(kind, getattr(self.core, name)))
                self._attached.append(name)
        return self

    def __exit__(self, *exception: object) -> None:
        while self._attached:
            delattr(self.core, self._attached.pop())

    def _around(self, kind: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def call(*args: Any, **kwargs: Any) -> Any:
            inputs: dict[str, Any] = {}
            packing: dict[str, Any] = {"calls": len(args[0] if args else next(iter(kwargs.values())))}

            def remember(module: Any, args: Any, kwargs: Any) -> None:
                inputs.update(kwargs if not args else {"hidden_states": args[0], **kwargs})

            handle = tower_layer(self.core).register_forward_pre_hook(remember, with_kwargs=True)
            pack = getattr(self.core, "pack_image_features", None)
            if pack is not None:
                self.core.pack_image_features = _noting(pack, packing)
            try:
                found = inner(*args, **kwargs)
            finally:
                handle.remove()
                if pack is not None:
                    del self.core.pack_image_features
            length = sum(len(features) for features in found.pooler_output)
            self._seen[kind] = Seen(self.core, kind, inputs, packing, length)
            return found

        return call

    def share(self, prompts: list[VisualPrompt]) -> None:
        """Gives each prompt of a batch its part, as `prompt.vision`.

        A batch that generate() has multiplied (beams, several answers) is that of the call with each row repeated.
        """
        offsets = dict.fromkeys(self._seen, 0)
        counts = [self._counts(prompt) for prompt in prompts]
        times = 1
        for kind, seen in self._seen.items():
            total = sum(count.get(kind, 0) for count in counts)
            if total:
                times = max(1, total // seen.length)
        for row, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
            prompt.vision = VisionView(self.model, prompt, {kind: (self._seen[kind], offsets[kind]) for kind in count})
            if (row + 1) % times == 0:
                for kind, number in count.items():
                    offsets[kind] += number

    def _counts(self, prompt: VisualPrompt) -> dict[str, int]:
        ids = zip(VISION_CALLS, visual_token_ids(self.model), strict=False)
        found = {kind: int((prompt.input_ids == token).sum()) for kind, token in ids}
        return {kind: number for kind, number in found.items() if number and kind in self._seen}


def _noting(pack: Callable[..., Any], packing: dict[str, Any]) -> Callable[..., Any]:
    def call(image_features: Any, *args: Any, **kwargs: Any) -> Any:
        found = pack(image_features, *args, **kwargs)
        named = dict(zip(("image_sizes", "image_newline", "vision_aspect_ratio"), args, strict=False)) | kwargs
        packing.update(named, tiles=[len(each) for each in image_features])
        return found

    return call


@dataclass(eq=False)
class VisionView:
    """What the vision encoder knew of one prompt's visual tokens."""

    model: Any
    prompt: VisualPrompt
    parts: dict[str, tuple[Seen, int]]
    """By kind: the call, and where this prompt's tokens begin in it."""

    @cached_property
    def _tokens(self) -> Tensor:
        ids = self.prompt.input_ids[self.prompt.visual_rows]
        width = next(iter(self.parts.values()))[0].tokens.shape[1]
        found = torch.full((len(ids), width), torch.nan, device=ids.device)
        for kind, token in zip(VISION_CALLS, visual_token_ids(self.model), strict=False):
            places = (ids == token).nonzero().squeeze(1)
            if len(places):
                seen, start = self.parts[kind]
                found[places] = seen.tokens[start : start + len(places)].to(found)
        return found

    @property
    def attention(self) -> Tensor:
        """[N_v] float32: post-softmax attention that a token's patches receive in the layer before the last of the
        vision encoder, mean over heads, over the patches that look, and over the token's own; NaN for a newline."""
        return self._tokens[:, 0]

    @property
    def keys(self) -> Tensor:
        """[N_v, head_dim] float32: keys in that layer, without RoPE, mean over heads and the token's patches."""
        return self._tokens[:, 1:]


def view(prompt: VisualPrompt) -> VisionView:
    """`prompt.vision`.

    Raises:
        UserError: nobody watched the encoder.
    """
    if prompt.vision is None:
        raise UserError("this method looks into the vision encoder: give it prompts of model_wrappers.encode")
    return prompt.vision
