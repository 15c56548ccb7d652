"""How far the two forms of exact relevance agree on trained models: in float32 and in bfloat16.

What they are both held to in bfloat16 is the same rounded weights multiplied in float32. Each of an experiment's models
explains its own answers to the first samples of every benchmark, with every option that relevance has.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import plan as plans
from harness.bench.machine import say
from harness.experiments import Experiment
from harness.plan import Data

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

    `float32`, `bfloat16`: the streaming form from the textbook form. `streaming`, `textbook`: each in bfloat16 from the
    textbook form with the same rounded weights, and the same embeddings of the prompt, in float32.
    """

    float32: float
    bfloat16: float
    streaming: float
    textbook: float


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
    from harness.models import open_model
    from harness.sweep import message_for, use_frames_of

    settings = plans.open_settings(experiment, name)
    full, half = (open_model(name, **{**settings, "dtype": dtype}) for dtype in ("float32", "bfloat16"))
    try:
        truth = copy.deepcopy(half.model).float()
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
                yield from cases(full.model, prompt, half.model, half.encode(decoded), truth)
    finally:
        full.close()
        half.close()


def cases(full: Any, prompt: Any, half: Any, rounded: Any, truth: Any) -> Iterator[Case]:
    """Of one prompt, with each of `OPTIONS`.

    Args:
        full: the model in float32; prompt: as it encoded it, with the response to explain in its cache.
        half: the model in bfloat16; rounded: the same prompt as that encoded it.
        truth: the weights of `half` in float32.
    """
    from model_wrappers.relevance.streaming import prompt_relevance
    from model_wrappers.relevance.textbook import textbook_relevance

    response = prompt.cache["response_ids"]
    exact = dataclasses.replace(rounded, inputs_embeds=rounded.inputs_embeds.float(), cache={})
    for options in OPTIONS:
        true = textbook_relevance(truth, exact, response, **options)
        textbook = textbook_relevance(half, rounded, response, **options)
        streaming = prompt_relevance(half, rounded, response, **options)
        expected = textbook_relevance(full, prompt, response, **options)
        found = prompt_relevance(full, prompt, response, **options)
        yield Case(
            *(_apart(*pair) for pair in ((found, expected), (streaming, textbook))),
            *(_apart(form, true) for form in (streaming, textbook)),
        )


def rows(agreements: Sequence[Agreement]) -> list[list[str]]:
    """Lines of the report: worst and median."""
    lines = []
    for agreement in agreements:
        said = summary(agreement)
        lines.append([f"two forms of relevance on {agreement.model}, float32: worst, median", _pair(said["float32"])])
        lines.append(["  bfloat16", _pair(said["bfloat16"])])
        for form in ("streaming", "textbook"):
            lines.append([f"  {form} in bfloat16 from the same weights in float32", _pair(said[form])])
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
