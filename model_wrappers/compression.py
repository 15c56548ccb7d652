"""The seam: installs one method on one Hugging Face model, and does all that is not choosing tokens.

`compress` is for anyone with a model and a processor; `generate` is for a sweep that has encoded its prompts and asks
each of them many times. Both cut the same tokens and give the same answers.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from model_wrappers import registry
from model_wrappers.anatomy import language_model, visual_token_ids
from model_wrappers.cheaper_input import IN_USE, InputCompression, generate_cheaper, take
from model_wrappers.encoding import encode
from model_wrappers.errors import UserError
from model_wrappers.layer_cut import LayerCut
from model_wrappers.methods.base import InputTransform, Method, Vanilla
from model_wrappers.positions import left_pad, shorten
from model_wrappers.prompt import VisualPrompt, split_batch
from model_wrappers.relevance.response import run_generate
from model_wrappers.selection import Choice, Record, budget, check_keep, choose
from model_wrappers.vision import VisionWatch

__all__ = ["Compression", "Record", "budget", "compress", "encode", "generate"]


def compress(model: Any, method: str | Method, keep: float = 1.0, **fields: Any) -> Compression | InputCompression:
    """Compresses the visual tokens of every prompt that `model` is given inside a `with`.

    Args:
        model: a Qwen2VLForConditionalGeneration, a LlavaOnevisionForConditionalGeneration or a model_wrappers.vila
            VilaForConditionalGeneration, on any device, dtype and attention kernel.
        method: a name of `registry.method_names()`, or a method.
        keep: share of the visual tokens to keep, in (0, 1]; 1 leaves the model untouched.
        fields: hyper-parameters of a method given by name, such as layer=4.

    Returns:
        A context manager. Inside, `model.generate(**inputs)` works as ever; `.last` holds one record a prompt of the
        last prefill. Batches are padded on the left after the cut. A method that changes the input (downsample,
        fewer_frames) starts from what the processor returned: its pixels are resampled, or frames are left out, and the
        vision encoder sees the rest. So it works in `model.generate(**inputs)` alone, and the text of the prompt stays
        as it is, also where it tells of frames.

    Raises:
        UserError: an unknown method, field or keep, or a model that the method cannot run on; inside, an input that it
            is not defined for, or that is no processor's output.
    """
    if isinstance(method, str):
        method = registry.method(method, **fields)
    elif fields:
        raise UserError(f"fields {', '.join(fields)} go with a method's name; {type(method).__name__} has its own")
    if isinstance(method, InputTransform) and check(model, method, keep) < 1:
        return InputCompression(model, method, keep)
    return Compression(model, method, keep)


class Compression:
    """One method on one model, from `with` to its end. Made by `compress`."""

    _scoring: bool
    _watches: bool

    def __init__(self, model: Any, method: Method, keep: float) -> None:
        self.model, self.method, self.keep = model, method, check(model, method, keep)
        self._decoder = language_model(model)
        self._visual_ids = visual_token_ids(model)
        self._layer_cut = LayerCut.of(model, method, self.keep)
        self._vision = VisionWatch(model) if method.needs_vision and self.keep < 1 else None
        self._handles: list[RemovableHandle] = []
        self._records: list[Record] = []
        self._forget()

    @property
    def last(self) -> list[Record]:
        """One record a prompt of the last prefill, in the order of the batch; empty before the first."""
        if self._layer_cut is not None:
            return self._layer_cut.records()
        return self._records

    def __enter__(self) -> Compression:
        take(self.model)
        self._handles = [
            self.model.model.register_forward_pre_hook(self._see_ids, with_kwargs=True),
            self._decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
        ]
        if self._layer_cut is not None:
            self._layer_cut.attach()
        if self._vision is not None:
            self._vision.__enter__()
        if self.method.needs_response and self.keep < 1:
            self._watch_generate()
        return self

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        if self._layer_cut is not None:
            self._layer_cut.detach()
        if self._vision is not None:
            self._vision.__exit__()
            self._vision.forget()
        if self._watches:
            del self.model.generate
            self._watches = False
        IN_USE.discard(self.model)
        self._forget()

    def _forget(self) -> None:
        self._ids: Tensor | None = None
        self._settings: dict[str, Any] | None = None
        self._scoring = self._watches = False
        self._next: Tensor | None = None  # [B] position after each prompt's last row, where anything is cut
        self._real: Tensor | None = None  # [B, L'] mask after a cut at the input
        self._shortened = False  # whether anything was cut there
        self._width = 0  # rows that entered the decoder's first layer in the prefill
        self._dims = 1  # rows of positions: 3 for M-RoPE

    def _watch_generate(self) -> None:
        """The response that relevance explains has the length limit of the generate() call in progress."""
        inner = self.model.generate

        def generate(*args: Any, **kwargs: Any) -> Any:
            self._settings = kwargs
            try:
                return inner(*args, **kwargs)
            finally:
                self._settings = None

        self.model.generate = generate
        self._watches = True

    def _see_ids(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._scoring:
            self._ids = kwargs.get("input_ids", args[0] if args else None)

    def _before_decoder(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._scoring:
            return None  # the method is asking the uncompressed model something
        cache = kwargs.get("past_key_values")
        seen = int(cache.get_seq_length()) if cache is not None else 0
        if seen:
            return self._decode(args, kwargs, seen)
        changed = self._prefill(kwargs)
        return None if changed is None else (args, changed)

    def _prefill(self, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        self._next = self._real = None
        self._shortened = False
        self._width = embeds.shape[1]
        self._records = []
        if self._ids is None:
            if self.keep == 1:
                return None
            raise UserError(
                "compress() finds the visual tokens by their ids: give the model input_ids, not inputs_embeds"
            )
        if mask is not None and (not torch.is_tensor(mask) or mask.ndim != 2):
            if self.keep < 1:
                raise UserError("compress() needs a plain attention mask [batch, length] and a dynamic KV cache")
            mask = None
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(embeds.shape[1], device=embeds.device).view(1, 1, -1)
        elif positions.ndim == 2:
            positions = positions[None]
        positions = positions[-3:].expand(-1, embeds.shape[0], -1)  # without the text row that Qwen2-VL puts first
        self._dims = positions.shape[0]
        prompts = split_batch(self._ids, embeds, positions, mask, self._visual_ids)
        if self._vision is not None:
            self._vision.share(prompts)
        real = None if mask is None or bool(mask.all()) else mask.bool()
        choices = [self._choose(prompt) for prompt in prompts]
        pairs = list(zip(prompts, choices, strict=True))
        layers = len(self._decoder.layers)
        self._records = [
            Record(prompt.n_visual, self.keep, choice.kept.cpu(), [len(choice.kept)] * layers, choice.seconds)
            for prompt, choice in pairs
        ]
        self._shortened = any(
            len(choice.kept) < prompt.n_visual or choice.merged is not None for prompt, choice in pairs
        )
        if not self._shortened:
            if self._layer_cut is not None:
                self._layer_cut.begin(prompts, real, choices)
                # After a prompt padded on the right, generate() would count on from the padding.
                self._next = torch.tensor([prompt.next_position for prompt in prompts], device=embeds.device)
            return None
        shorts = [shorten(prompt, choice.kept, self.method.positions, choice.merged) for prompt, choice in pairs]
        embeds, self._real = left_pad([short.embeds for short in shorts])
        if self._layer_cut is not None:
            self._layer_cut.begin(prompts, self._real, choices)
        positions = left_pad([short.positions.T for short in shorts])[0].permute(2, 0, 1)
        self._width = embeds.shape[1]
        self._next = torch.tensor([short.next_position for short in shorts], device=embeds.device)
        shown = self._real
        if shown is None and self._dims == 1:
            # Gaps in one-dimensional positions would be read as packed sequences where there is neither mask nor cache.
            shown = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return {
            **kwargs,
            "inputs_embeds": embeds,
            "position_ids": self._as_decoder(positions),
            "attention_mask": shown,
        }

    def _as_decoder(self, positions: Tensor) -> Tensor:
        """[3, B, L] as it is, [1, B, L] as the [B, L] of a decoder with one-dimensional positions."""
        return positions if self._dims > 1 else positions[0]

    def _choose(self, prompt: VisualPrompt) -> Choice:
        if self._settings is not None:
            prompt.cache["generate_kwargs"] = self._settings
        self._scoring = True
        try:
            return choose(self.model, prompt, self.method, self.keep)
        finally:
            self._scoring = False

    def _decode(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], seen: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        new = kwargs["inputs_embeds"].shape[1]
        if new > 1 and self._ids is not None:
            if any(bool((self._ids == token).any()) for token in self._visual_ids) and self.keep < 1:
                raise UserError(
                    "compress() cuts at a prompt's start: it cannot take visual tokens after a filled KV cache"
                )
        if self._next is None:
            return None
        trimmed = self._layer_cut.trimmed if self._layer_cut is not None else None
        width, real = (self._width, self._real) if trimmed is None else trimmed
        step = torch.arange(seen - width, seen - width + new, device=self._next.device)
        changed = {**kwargs, "position_ids": self._as_decoder((self._next[:, None] + step).expand(self._dims, -1, -1))}
        if self._shortened or trimmed is not None:
            if real is not None:
                real = torch.nn.functional.pad(real, (0, seen + new - width), value=True)
            changed["attention_mask"] = real
        return args, changed


@torch.no_grad()
def generate(
    model: Any, prompt: VisualPrompt, method: Method, keep: float, **generate_kwargs: Any
) -> tuple[Tensor, Record]:
    """Answers an encoded prompt: what `compress(model, method, keep)` and `model.generate(**inputs)` would answer.

    Scores are remembered in `prompt.cache[method]`, the vanilla answer (if greedy) in `prompt.cache['response_ids']`.

    Returns:
        The new token ids [T] and the record.

    Raises:
        UserError: a keep outside (0, 1], or a model that the method cannot run on.
    """
    keep = check(model, method, keep)
    prompt.cache["generate_kwargs"] = generate_kwargs
    if isinstance(method, InputTransform) and budget(keep, prompt.n_visual) < prompt.n_visual:
        return generate_cheaper(model, prompt, method, keep, **generate_kwargs)
    choice = choose(model, prompt, method, keep)
    kept, seconds, merged = choice
    shorts = None
    if len(kept) < prompt.n_visual or merged is not None:
        shorts = [shorten(prompt, kept, method.positions, merged)]
    cut = LayerCut.of(model, method, keep) if prompt.n_visual else None
    if cut is not None:
        cut.begin([prompt], None, [choice])
        cut.attach()
        try:
            answer = run_generate(model, prompt, shorts, **generate_kwargs)[0]
        finally:
            cut.detach()
        return answer, cut.records()[0]
    layers = len(language_model(model).layers)
    record = Record(prompt.n_visual, keep, kept.cpu(), [len(kept)] * layers, seconds)
    if shorts is not None:
        return run_generate(model, prompt, shorts, **generate_kwargs)[0], record
    start = time.perf_counter()
    answer = run_generate(model, prompt, None, **generate_kwargs)[0]
    if not generate_kwargs.get("do_sample", model.generation_config.do_sample):
        prompt.cache.setdefault("response_ids", answer)
        prompt.cache.setdefault("response_seconds", time.perf_counter() - start)
    return answer, record


def check(model: Any, method: Method, keep: float) -> float:
    """`keep` as a float. UserError for a keep outside (0, 1], or a model that the method cannot run on."""
    keep = check_keep(keep)
    if isinstance(method, Vanilla) and keep < 1:
        raise UserError(f"keep={keep}: vanilla keeps every visual token, so its keep is 1")
    method.check(model)
    return keep
