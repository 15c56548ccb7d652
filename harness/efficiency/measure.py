"""Runs every variant in turn, round after round, and takes the times apart."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness import flops
from harness.bench.machine import machine, say
from harness.bench.meter import peak_memory
from harness.efficiency import shapes
from harness.efficiency.inputs import AFTER, BEFORE
from harness.efficiency.request import Request
from harness.efficiency.variants import Variant
from model_wrappers.anatomy import visual_token_ids
from model_wrappers.encoding import encode
from model_wrappers.errors import SampleError, UserError
from model_wrappers.families.common import pick_device
from model_wrappers.inputs import Input, split
from model_wrappers.prompt import VisualPrompt
from model_wrappers.selection import settle, stopwatch


@dataclass(frozen=True)
class Seconds:
    """Of one answer."""

    vision: float
    """The vision encoder, and placing its features; a method that gives it a cheaper input has its own."""
    scoring: float
    """What the method took to say which tokens stay, wherever it does so."""
    prefill: float
    """From the encoded prompt to the first token's logits, without scoring."""
    decode: float
    """Of each further token, the mean."""

    @property
    def llm(self) -> float:
        """Scoring and prefill: what stands between the vision encoder's output and the first token."""
        return self.scoring + self.prefill

    @property
    def first(self) -> float:
        """From pixels to the first token."""
        return self.vision + self.llm


@dataclass
class Measured:
    """One variant: what it kept, what it took in each round; or the reason why it cannot be run on this input."""

    variant: Variant
    visual: int = 0
    kept: int = 0
    by_layer: list[int] = field(default_factory=list)
    """Visual tokens that each layer worked on."""
    kv_visual: list[int] = field(default_factory=list)
    kv_bytes: int = 0
    """Keys and values of the whole prompt, text included, after the prefill."""
    peak_bytes: int = 0
    """The most held at once above the weights and the encoded prompt, from scoring to the last token."""
    tflops: float | None = None
    """Of the visual tokens, the paper's eq. 4 to 6, the method's own included."""
    rounds: list[Seconds] = field(default_factory=list)
    lacking: str | None = None


@dataclass(frozen=True)
class Measurement:
    """Everything about one model on one input."""

    request: Request
    machine: dict[str, Any]
    device: str
    dtype: str
    kernel: str
    load: float
    """Processes that wanted a core when it began, a minute's mean: more than there are cores make times noisy."""
    load_after: float
    """The same when it ended. Its own threads are in it, which are no more than there are cores."""
    n_visual: int
    measured: list[Measured]
    """Vanilla first."""


def measure(request: Request) -> Measurement:
    """Loads or makes the model and measures."""
    with _opened(request) as model:
        return of_model(model, request)


def of_model(model: Any, request: Request) -> Measurement:
    """`measure` with a model that is loaded: a round to warm up, one for memory, then the timed ones.

    In each round all variants take their turn, so that a machine that slows down slows all of them.
    """
    load = os.getloadavg()[0]
    inputs = {name: value.to(model.device) for name, value in request.given.tensors.items()}
    found = [Measured(variant) for variant in request.variants]
    for number in range(-2, request.repeats):
        say({-2: "warming up", -1: "memory"}.get(number, f"round {number + 1} of {request.repeats}"))
        with stopwatch(model.device) as watch:
            prompt = _encode(model, request, inputs)
        for each in found:
            if number == -2:
                _first(model, each, prompt, request.decoded)
            elif each.lacking is None and number == -1:
                _memory(model, each, prompt, request.decoded)
            elif each.lacking is None:
                each.rounds.append(_timed(model, each.variant, prompt, request.decoded, watch.seconds))
    return Measurement(
        request=request,
        machine=machine(),
        device=device_name(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        kernel=model.config.get_text_config()._attn_implementation,
        load=load,
        load_after=os.getloadavg()[0],
        n_visual=prompt.n_visual,
        measured=found,
    )


def device_name(device: torch.device) -> str:
    """What a reader knows the device by."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _first(model: Any, measured: Measured, prompt: VisualPrompt, decoded: int) -> None:
    """The first answer of a variant: untimed, for what it keeps and whether it can."""
    try:
        with _steps(model) as steps:
            _, record = measured.variant.answer(model, _fresh(prompt), decoded)
    except (SampleError, UserError) as error:  # a method that is not defined for this input says so
        measured.lacking = " ".join(str(error).split())
        return
    measured.visual, measured.by_layer, measured.kv_visual = record.visual, record.by_layer, record.kv_visual
    measured.kept = min(record.kv_visual, default=0)
    measured.kv_bytes = steps[-decoded].kv_bytes
    shape = flops.of_config(model.config.to_dict(), str(model.name_or_path))
    counted = flops.by_paper(shape, measured.variant.method, record.visual, record.by_layer)
    measured.tflops = None if counted is None else counted / 1e12


def _memory(model: Any, measured: Measured, prompt: VisualPrompt, decoded: int) -> None:
    fresh = _fresh(prompt)
    with peak_memory(model.device) as peak:
        measured.variant.answer(model, fresh, decoded)
    measured.peak_bytes = peak.bytes


def _timed(model: Any, variant: Variant, prompt: VisualPrompt, decoded: int, vision: float) -> Seconds:
    fresh = _fresh(prompt)
    # Scoring includes what the vision encoder was asked for a method's sake, also where another method of the round had
    # asked before; then it is not part of the time that is taken here.
    owed = fresh.cache.get("vision_seconds", 0.0) if variant.method.needs_vision else 0.0
    with _steps(model) as steps:
        settle(model.device)
        start = time.perf_counter()
        _, record = variant.answer(model, fresh, decoded)
    prefill, last = steps[-decoded], steps[-1]  # a method may have run the model before, to score
    scoring, decode = record.scoring_seconds, (last.end - prefill.end) / (decoded - 1)
    # A method that makes the input cheaper encodes that one in the place of the full one, inside its answer.
    if record.made is not None:
        return Seconds(prefill.start - start - scoring, scoring, prefill.end - prefill.start, decode)
    return Seconds(vision, scoring, prefill.end - start - (scoring - owed), decode)


@dataclass(frozen=True)
class _Step:
    """One forward pass: when it began, when its logits were there, and the bytes of the KV cache then."""

    start: float
    end: float
    kv_bytes: int


@contextmanager
def _steps(model: Any) -> Iterator[list[_Step]]:
    """The forward passes of the model inside the block, in order."""
    steps: list[_Step] = []
    began = 0.0

    def before(module: Any, args: Any) -> None:
        nonlocal began
        settle(model.device)
        began = time.perf_counter()

    def after(module: Any, args: Any, output: Any) -> None:
        settle(model.device)
        now = time.perf_counter()
        layers = getattr(getattr(output, "past_key_values", None), "layers", ())
        steps.append(_Step(began, now, sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)))

    handles = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def _encode(model: Any, request: Request, inputs: dict[str, Any]) -> VisualPrompt:
    prompt = encode(model, inputs, ["efficiency"])[0]
    prompt.extents, prompt.media = request.given.extents.to(model.device), request.given.media
    prompt.source = partial(_source, model, request, inputs)
    return prompt


def _source(model: Any, request: Request, inputs: dict[str, Any]) -> Input:
    """What the prompt was encoded from; of VILA no placeholder tells whether its images are a video's frames."""
    (found,) = split(model, inputs, request.given.media)
    if len(visual_token_ids(model)) > 1:
        return found
    return dataclasses.replace(found, retell=partial(_retold, found.ids.tolist()))


def _retold(ids: list[int], chosen: list[tuple[int, ...]]) -> list[int]:
    """The made-up prompt with so many frames, each of which has a placeholder of its own."""
    return [*ids[:BEFORE], *[ids[BEFORE]] * len(chosen[0]), *ids[-AFTER:]]


def _fresh(prompt: VisualPrompt) -> VisualPrompt:
    """The same prompt, of which no method has learned anything yet."""
    return dataclasses.replace(prompt, cache=dict(prompt.cache))


@contextmanager
def _opened(request: Request) -> Iterator[Any]:
    if not request.random_weights:
        from harness.models import open_model

        opened = open_model(request.model)
        try:
            yield opened.model
        finally:
            opened.close()
        return
    device = pick_device(None)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    say(f"making {request.model} with random weights")
    with tempfile.TemporaryDirectory(prefix="retain-efficiency-") as folder:
        model = shapes.build(request.config, device, dtype)
        model.name_or_path = folder
        _add_compressors(Path(folder))
        yield model


def _add_compressors(folder: Path) -> None:
    """Random compressors of the paper's size, where `cnn` looks for those of a checkpoint."""
    from model_wrappers.compressor import Compressor

    for media in ("image", "video"):
        Compressor(folder.name, media=media, input_scale="mean").save_pretrained(folder / f"compressor-{media}")
