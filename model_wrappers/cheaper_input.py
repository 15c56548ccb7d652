"""The seam of the methods that change the input: encode a cheaper image or video, then answer as the model does.

`compress` installs one of them around `generate()`: the processor's output is all that it starts from.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from model_wrappers.anatomy import n_layers, visual_token_ids
from model_wrappers.encoding import encode
from model_wrappers.errors import UserError
from model_wrappers.inputs import Input, split
from model_wrappers.methods.base import InputTransform
from model_wrappers.positions import left_pad
from model_wrappers.prompt import VisualPrompt
from model_wrappers.relevance.response import as_config, run_generate
from model_wrappers.selection import Record, budget, stopwatch

_PIXELS = frozenset(
    """pixel_values pixel_values_videos image_grid_thw video_grid_thw image_sizes image_sizes_videos batch_num_images
    mm_token_type_ids position_ids attention_mask input_ids""".split()
)
"""Of what is given to generate(), all that follows from the input."""


def cheaper_prompt(model: Any, full: Input, method: InputTransform, keep: float) -> tuple[VisualPrompt, Record]:
    """The encoded cheaper version of an input, and what was made of it. Seconds are those of choosing the version; its
    pixels are resampled and encoded in the place of the full ones', not beside them.

    Raises:
        UserError: the method is not defined for what the prompt shows.
    """
    if budget(keep, full.tokens) == full.tokens:
        (prompt,) = encode(model, full.encoder_inputs())
        kept = torch.arange(prompt.n_visual)
        return prompt, Record(prompt.n_visual, keep, kept, [prompt.n_visual] * n_layers(model))
    with stopwatch(torch.device("cpu")) as watch:
        made = full.cheaper(method, keep)
    (prompt,) = encode(model, made.encoder_inputs())
    none, layers = torch.empty(0, dtype=torch.long), [prompt.n_visual] * n_layers(model)
    return prompt, Record(full.tokens, keep, none, layers, watch.seconds, made=prompt.n_visual)


def generate_cheaper(
    model: Any, prompt: VisualPrompt, method: InputTransform, keep: float, **generate_kwargs: Any
) -> tuple[Tensor, Record]:
    """`compression.generate` of a method that changes the input, where it changes anything.

    Raises:
        UserError: the prompt does not hold what it was encoded from, or the method is not defined for what it shows.
    """
    if prompt.source is None:
        raise UserError(f"{method.name} changes the input, and this prompt was encoded from one that is gone")
    cheaper, record = cheaper_prompt(model, prompt.source(), method, keep)
    return run_generate(model, cheaper, None, **generate_kwargs)[0], record


IN_USE: WeakSet[Any] = WeakSet()
"""Models inside a `with compress(...)`."""


def take(model: Any) -> None:
    """Puts a model among those in use. Raises UserError where it is."""
    if model in IN_USE:
        raise UserError("this model is inside another `with compress(...)`: leave that one first")
    IN_USE.add(model)


class InputCompression:
    """One InputTransform on one model, from `with` to its end, with keep below 1. Made by `compress`."""

    def __init__(self, model: Any, method: InputTransform, keep: float) -> None:
        self.model, self.method, self.keep = model, method, keep
        self.last: list[Record] = []
        """One record a prompt of the last generate(), in the order of the batch; empty before the first."""
        self._handle: RemovableHandle | None = None
        self._inside = False

    def __enter__(self) -> InputCompression:
        take(self.model)
        self._handle = self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        self.model.generate = self._generate
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handle is not None:
            self._handle.remove()
            del self.model.generate
            IN_USE.discard(self.model)
        self._handle = None

    def _before_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        visual = ids is not None and any(bool((ids == token).any()) for token in visual_token_ids(self.model))
        if visual and not self._inside:
            raise UserError(
                f"{self.method.name} changes what the vision encoder is given: inside compress() call "
                "model.generate(**inputs), not the model itself"
            )

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's generate() on the cheaper input. What it returns begins with the token ids that were given."""
        ids = kwargs.get("input_ids")
        if args or ids is None or kwargs.get("inputs_embeds") is not None:
            raise UserError(
                f"{self.method.name} starts from what the processor returned: inside compress() call "
                "model.generate(**inputs) with its input_ids and pixel values"
            )
        made = [cheaper_prompt(self.model, full, self.method, self.keep) for full in split(self.model, kwargs)]
        prompts, self.last = [prompt for prompt, _ in made], [record for _, record in made]
        embeds, real = left_pad([prompt.inputs_embeds for prompt in prompts])
        positions = left_pad([prompt.position_ids.T for prompt in prompts])[0].permute(2, 0, 1)
        shown = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if real is None else real
        rest = {name: value for name, value in kwargs.items() if name not in _PIXELS}
        self._inside = True
        try:
            return type(self.model).generate(
                self.model,
                input_ids=ids.to(embeds.device),
                inputs_embeds=embeds,
                position_ids=positions if positions.shape[0] > 1 else positions[0],
                attention_mask=shown.long(),
                **as_config(self.model, rest, embeds.shape[1]),
            )
        finally:
            self._inside = False
