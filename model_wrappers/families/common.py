"""What the VLMEvalKit classes of all families share: settings, loading, answering, and errors of one sample.

A family's class is `FamilyModel` put before VLMEvalKit's own class. It takes apart what the kit does in one: ``decode``
(CPU, any thread; the family's own), ``encode`` (vision encoder), ``answer`` (cut and generate); so a sample is read
once for many methods.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, BatchFeature
from transformers.utils import logging as transformers_logging

from model_wrappers import registry
from model_wrappers.compression import generate
from model_wrappers.encoding import encode
from model_wrappers.errors import SampleError, UserError
from model_wrappers.families.checkpoint import check_checkpoint, find_checkpoint
from model_wrappers.inputs import Input, split
from model_wrappers.methods.base import Method
from model_wrappers.prompt import VisualPrompt
from model_wrappers.selection import Record, check_keep
from model_wrappers.together import Batching, Request, generate_together

_ELSEWHERE = ("http://", "https://", "file://", "data:")
"""Media that are no paths of this machine; the kit's code reads them."""


@dataclass(frozen=True)
class Decoded:
    """One message after decoding and the processor, before any model has seen it."""

    inputs: BatchFeature
    """What the processor returned, on the CPU: input_ids [1, L], pixel values, grids or sizes."""
    sample_id: str
    """Digest of the texts and the names of the media; seeds methods that draw."""
    extents: Tensor | None = None
    """`VisualPrompt.extents` of the prompt to be: float32 [N_v, 6]."""
    media: Literal["image", "video"] | None = None
    """`VisualPrompt.media` of the prompt to be; None where the placeholders say it."""
    told: tuple[Any, ...] | None = None
    """What `FamilyModel.retell` starts from, where the text speaks of a video's frames or stands between them."""


class FamilyModel:
    """The part of a family's class that is the same in all of them; stands before VLMEvalKit's class among its bases.

    The class on top of it sets the attributes below in its ``__init__`` and writes ``decode``.
    """

    method: Method
    """What ``generate`` uses."""
    keep: float
    """Share of visual tokens that ``generate`` keeps, in (0, 1]."""
    model: Any
    processor: Any
    """Needs a ``tokenizer``."""
    device: str
    dump_image_func: Any
    """VLMEvalKit's: writes the images of the benchmark in hand, where it is one of images."""
    generate_kwargs: dict[str, Any]
    """Settings of every generate() call."""
    batching: Batching = "exact"
    """Where ``answer_together`` generates answers as rows of a batch."""

    def decode(self, message: list[dict[str, Any]], dataset: str | None = None) -> Decoded:
        """Reads the media and runs the processor, on the CPU; may be called from any thread.

        Args:
            message: VLMEvalKit's message, a list of ``{"type": "text" | "image" | "video", "value": text or path}``.
            dataset: its name in VLMEvalKit.

        Raises:
            SampleError: a file is missing, empty, or cannot be decoded; names it.
        """
        raise NotImplementedError

    def retell(self, *told: Any) -> Sequence[int]:
        """Token ids of a prompt with fewer frames: from its `Decoded.told`, then the frames left of each video."""
        raise NotImplementedError

    def decoder(self) -> FamilyModel:
        """A copy that can `decode` and nothing else: without weights, fit to be pickled into another process."""
        made = copy.copy(self)
        made.model = SimpleNamespace(config=self.model.config)
        made.dump_image_func = None  # bound to a whole data set; messages are made before
        return made

    def encode(self, decoded: Decoded) -> VisualPrompt:
        """Runs the vision encoder once and places its features; the result serves every method and keep."""
        prompt = encode(self.model, decoded.inputs, [decoded.sample_id])[0]
        if decoded.extents is not None:
            prompt.extents = decoded.extents.to(prompt.visual.device)
        if decoded.media is not None:
            prompt.media = decoded.media
        prompt.source = partial(self._input, decoded)
        return prompt

    def _input(self, decoded: Decoded) -> Input:
        """What methods that change the input start from."""
        (found,) = split(self.model, decoded.inputs, decoded.media)
        return found if decoded.told is None else replace(found, retell=partial(self.retell, *decoded.told))

    def prepare(self, message: list[dict[str, Any]], dataset: str | None = None) -> VisualPrompt:
        """``decode`` and ``encode`` in a row."""
        return self.encode(self.decode(message, dataset))

    def answer(self, prompt: VisualPrompt, method: Method | str, keep: float) -> tuple[str, Record]:
        """Cuts the prompt's visual tokens by a method and generates; what the method learned stays in ``prompt.cache``.

        Returns:
            The response, finished as the kit's class does, and what was kept.
        """
        chosen = registry.method(method) if isinstance(method, str) else method
        new_ids, record = generate(self.model, prompt, chosen, keep, **self.generate_kwargs)
        return self._response(new_ids), record

    def answer_together(
        self, prompt: VisualPrompt, requests: Sequence[Request]
    ) -> Iterator[tuple[int, str | Exception, Record | None, float]]:
        """``answer`` for many methods and keeps, as fast as they can be had, see ``generate_together``.

        Yields:
            Place of the request, its response or what went wrong, what was kept, seconds.
        """
        outcomes = generate_together(self.model, prompt, requests, self.batching, **self.generate_kwargs)
        for place, found, record, seconds in outcomes:
            if isinstance(found, Exception):
                yield place, found, None, seconds
            else:
                yield place, self._response(found), record, seconds

    def _response(self, new_ids: Tensor) -> str:
        response = self.processor.tokenizer.batch_decode(
            new_ids.reshape(1, -1), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )[0]
        return self.finish(response)

    def finish(self, response: str) -> str:
        """What the kit's class does to a decoded response; nothing, unless a family says otherwise."""
        return response

    def generate_inner(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
        """What VLMEvalKit's runner calls: the answer under this object's own method and keep."""
        return self.answer(self.prepare(message, dataset), self.method, self.keep)[0]

    def preproc_content(self, inputs: Any) -> Any:
        """The kit's, which fails with a bare assertion where a file is missing; that is told first."""
        kit: Any = super()
        for item in inputs if kit.check_content(inputs) == "listdict" else []:
            check_media(item)
        return kit.preproc_content(inputs)

    def close(self) -> None:
        """Lets go of the model's memory; the object answers no more."""
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _set_method(self, method: str | Method, keep: float) -> None:
        """Before anything loads, so that a mistake in them is told at once."""
        self.method = registry.method(method) if isinstance(method, str) else method
        self.keep = check_keep(keep)

    def _set_model(self, model: Any) -> None:
        """Raises UserError where this object's method cannot run on the model."""
        self.model = model
        self.method.check(model)
        self.device = str(model.device)


def open_folder(model_path: str | Path, revision: str | None, *model_types: str) -> Path:
    """The checked folder of a checkpoint given by path or hub id.

    Raises:
        UserError: a file is missing or broken, or the checkpoint is of none of `model_types`.
    """
    folder = find_checkpoint(str(model_path), revision)
    if (kind := check_checkpoint(folder)) not in model_types:
        raise UserError(f"{folder} is a {kind} checkpoint, not a {' or '.join(model_types)} one.")
    return folder


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None takes CUDA where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def pick_dtype(dtype: str | torch.dtype, stored: torch.dtype | None, device: torch.device) -> str | torch.dtype:
    """`auto` is the checkpoint's own (`stored`), but float32 in place of float16 on a CPU: most have no arithmetic for
    it."""
    return torch.float32 if dtype == "auto" and device.type == "cpu" and stored == torch.float16 else dtype


def load_model(
    model_class: Any, folder: Path, device: str | torch.device | None, dtype: str | torch.dtype, attention: str
) -> Any:
    """`from_pretrained` of a checkpoint in the Hugging Face layout, in eval mode, on its device, without a bar."""
    target = pick_device(device)
    dtype = pick_dtype(dtype, AutoConfig.from_pretrained(folder).dtype if dtype == "auto" else None, target)
    with no_progress_bar():
        model: Any = model_class.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.to(target).eval()


def generation_settings(
    max_new_tokens: int, do_sample: bool, repetition_penalty: float, **sampling: Any
) -> dict[str, Any]:
    """Settings of every generate() call; `sampling` only with do_sample, else transformers warns at each call."""
    return {
        "max_new_tokens": max_new_tokens,
        "repetition_penalty": repetition_penalty,
        "do_sample": do_sample,
        **(sampling if do_sample else {}),
    }


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers shows no bar while weights load inside."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def check_media(item: dict[str, Any]) -> None:
    """Raises SampleError where an image or video is a path and there is no file, or nothing in it."""
    if item["type"] not in ("image", "video") or item["value"].startswith(_ELSEWHERE):
        return
    path = Path(item["value"])
    if not path.is_file():
        raise SampleError(f"The {item['type']} {path} does not exist.")
    if path.stat().st_size == 0:
        raise SampleError(f"The {item['type']} {path} is an empty file.")


@contextlib.contextmanager
def sample_errors(kind: str, path: str) -> Iterator[None]:
    """Whatever goes wrong while a file is read is told as that file's error, with its reason."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while kind == "video" and cause.__context__ is not None:
            cause = cause.__context__  # the outer ones are of the reader that qwen_vl_utils tried second
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        reason = re.sub(r"\[\d\d:\d\d:\d\d\] \S+ ", "", lines[0])[:200]  # without the times and places of C++ logs
        raise SampleError(f"The {kind} {path} cannot be decoded: {reason}") from error


def sample_id(message: list[dict[str, Any]]) -> str:
    """Digest of the texts and of each medium's folder and file name: the same wherever the data lie."""
    parts = [
        [item["type"], item["value"] if item["type"] == "text" else "/".join(item["value"].split("/")[-2:])]
        for item in message
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
