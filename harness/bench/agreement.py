"""How far the two forms of exact relevance agree on trained models: in float64, float32 and bfloat16.

In float64 they are to be one. In float32 each is held to that, and in bfloat16 to the same rounded weights multiplied
in float32: rounding moves the textbook form, too. Each of an experiment's models explains its own answers to the first
samples of every benchmark, with every option that relevance has.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plan as plans
from harness.bench.machine import say
from harness.experiments import Experiment
from harness.plan import Data

if TYPE_CHECKING:
    from harness.bench.wider import Wider

SAMPLES = 3
"""Of each benchmark: with six of them 18 prompts a model, each with five options."""
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"clamp": False},
    {"target": "margin"},
    {"target": "logprob"},
    {"head_weights": "mean"},
)


@dataclass(frozen=True)
class Case:
    """The largest differences of one prompt's relevance with one option, each in parts of the largest score.

    `float64`, `float32`, `bfloat16`: the streaming form from the textbook form. The others: one form in that dtype from
    the textbook form with the same weights, and the same embeddings of the prompt, in float64 or float32.
    """

    float64: float
    float32: float
    float32_streaming: float
    float32_textbook: float
    bfloat16: float
    bfloat16_streaming: float
    bfloat16_textbook: float


@dataclass(frozen=True)
class Agreement:
    """The cases of one model."""

    model: str
    cases: list[Case]


def measure(experiment: Experiment, data: Path, samples: int = SAMPLES) -> list[Agreement]:
    """Of each of the experiment's models.

    Raises UserError for data or models that cannot be used.
    """
    found = []
    for name in experiment.models:
        say(f"agreement of the two forms of relevance on {name}")
        found.append(Agreement(name, list(_cases(experiment, data, name, samples))))
    return found


def _cases(experiment: Experiment, data: Path, name: str, samples: int) -> Iterator[Case]:
    from harness.bench.wider import Wider
    from harness.models import open_model
    from harness.sweep import message_for, use_frames_of

    settings = plans.open_settings(experiment, name)
    full, half = (open_model(name, **{**settings, "dtype": dtype}) for dtype in ("float32", "bfloat16"))
    try:
        wider = Wider(full.model, half.model)
        for benchmark in experiment.benchmarks:
            opened = Data(experiment, data).open(benchmark, experiment.frames_of(name))
            if opened.modality == "image":
                full.set_dump_image(opened.dump_image)
            else:
                use_frames_of(full, opened.dataset)
            for position in range(min(samples, len(opened))):
                decoded = full.decode(message_for(full, opened, position), opened.dataset.dataset_name)
                prompt = full.encode(decoded)
                full.answer(prompt, "vanilla", 1.0)
                yield from cases(full.model, prompt, half.model, half.encode(decoded), wider)
    finally:
        full.close()
        half.close()


def cases(full: Any, prompt: Any, half: Any, rounded: Any, wider: Wider) -> Iterator[Case]:
    """Of one prompt, with each of `OPTIONS`.

    Args:
        full: the model in float32; prompt: as it encoded it, with the response to explain in its cache.
        half: the model in bfloat16; rounded: the same prompt as that encoded it.
        wider: these two, each in the next wider dtype.
    """
    import torch

    from harness.bench.wider import softmax_as_given
    from model_wrappers.relevance.streaming import prompt_relevance
    from model_wrappers.relevance.textbook import textbook_relevance

    exact, exact_half = _in(torch.float64, prompt), _in(torch.float32, rounded)
    for options in OPTIONS:
        how: Any = {"response_ids": prompt.cache["response_ids"], **options}
        with softmax_as_given():
            true = textbook_relevance(wider.full, exact, **how)
        true_of_half = textbook_relevance(wider.half, exact_half, **how)
        streaming, textbook = prompt_relevance(full, prompt, **how), textbook_relevance(full, prompt, **how)
        streaming_half, textbook_half = prompt_relevance(half, rounded, **how), textbook_relevance(half, rounded, **how)
        yield Case(
            float64=_apart(prompt_relevance(wider.full, exact, **how), true),
            float32=_apart(streaming, textbook),
            float32_streaming=_apart(streaming, true),
            float32_textbook=_apart(textbook, true),
            bfloat16=_apart(streaming_half, textbook_half),
            bfloat16_streaming=_apart(streaming_half, true_of_half),
            bfloat16_textbook=_apart(textbook_half, true_of_half),
        )


def _in(dtype: Any, prompt: Any) -> Any:
    return dataclasses.replace(prompt, inputs_embeds=prompt.inputs_embeds.to(dtype), cache={})


def rows(agreements: Sequence[Agreement]) -> list[list[str]]:
    """Lines of the report: worst and median."""
    lines = []
    for agreement in agreements:
        said = summary(agreement)
        lines += [[f"two forms of relevance on {agreement.model}, float64: worst, median", _pair(said["float64"])]]
        for dtype, wide in (("float32", "float64"), ("bfloat16", "the same weights in float32")):
            lines.append([f"  {dtype}", _pair(said[dtype])])
            for form in ("streaming", "textbook"):
                lines.append([f"  {form} in {dtype} from {wide}", _pair(said[f"{dtype}_{form}"])])
    return lines


def summary(agreement: Agreement) -> dict[str, Any]:
    """For bench.json: worst and median of each of a case's differences, as text, since many are very small."""
    found: dict[str, Any] = {"model": agreement.model, "cases": len(agreement.cases)}
    for each in dataclasses.fields(Case):
        values = [getattr(case, each.name) for case in agreement.cases]
        found[each.name] = {"worst": f"{max(values):.1e}", "median": f"{statistics.median(values):.1e}"}
    return found


def _pair(said: dict[str, str]) -> str:
    return f"{said['worst']}, {said['median']} of the largest score"


def _apart(found: Any, expected: Any) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
