"""What exact relevance costs: the streaming form against the textbook form, how each grows, and against a prefill.

A language model of the shape of Qwen2-VL's smallest decoder layers, cut to a few layers, with random weights: cost does
not depend on what the weights are. Every measurement is a process of its own, so that the memory of one cannot hide in
that of another; the two forms take turns.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.bench.machine import say

Form = Literal["textbook", "streaming", "prefill"]
_FORMS: tuple[Form, ...] = ("streaming", "textbook")
"""Of relevance."""

BOTH, ALONE = (512, 1536, 3072), (6144, 12288, 24576)
"""Visual tokens: at the first the two forms are compared, at all of them streaming is measured."""
TEXT = 40
"""Rows of text around the visual tokens."""
RESPONSE, LONGER = 1, 8
"""Tokens of the response: a closed answer, and one of a few words, which is measured at `OFTEN` visual tokens."""
OFTEN = 1536


@dataclass(frozen=True)
class Shape:
    """Of the language model; the defaults are a layer of the 0.5B Qwen2, four times."""

    layers: int = 4
    hidden: int = 896
    heads: int = 14
    key_heads: int = 2
    intermediate: int = 4864


@dataclass(frozen=True)
class Cost:
    """Of one form at one length: seconds (the median) and the most bytes beyond the weights and the prompt.

    `response`: tokens of the answer that is explained.
    """

    form: Form
    n_visual: int
    seconds: float
    peak_bytes: int
    response: int = RESPONSE


def measure(shape: Shape, both: Sequence[int] = BOTH, alone: Sequence[int] = ALONE) -> list[Cost]:
    """All costs, each from a fresh process."""
    found = []
    for count in (*both, *alone):
        forms: list[Form] = ["streaming", "prefill"]
        if count in both:
            forms.append("textbook")
        for form in forms:
            say(f"relevance of {count} visual tokens: {form}")
            found.append(_alone(shape, form, count))
    if OFTEN in both:
        say(f"relevance of {OFTEN} visual tokens for an answer of {LONGER} tokens: both forms")
        found += [_alone(shape, form, OFTEN, LONGER) for form in _FORMS]
    return found


def exponents(costs: Sequence[Cost], form: Form) -> dict[str, float]:
    """k in cost ~ n^k for memory and time: the slope of a straight line through the logarithms."""
    chosen = [cost for cost in costs if cost.form == form and cost.response == RESPONSE]
    counts = [math.log(cost.n_visual) for cost in chosen]
    return {
        "memory": _slope(counts, [math.log(max(1, cost.peak_bytes)) for cost in chosen]),
        "time": _slope(counts, [math.log(cost.seconds) for cost in chosen]),
    }


def rows(costs: Sequence[Cost]) -> list[list[str]]:
    """Lines of the report: streaming at each length, beside the textbook form where there is one, and the prefill."""
    by = {(cost.form, cost.n_visual, cost.response): cost for cost in costs}
    lines = []
    for count, response in sorted({(cost.n_visual, cost.response) for cost in costs}):
        stream, prefill = by["streaming", count, response], by["prefill", count, RESPONSE]
        tokens = "one token" if response == 1 else f"{response} tokens"
        spent = f"{stream.seconds:.2f} s, {stream.peak_bytes / 2**20:.0f} MiB"
        lines.append(
            [
                f"relevance of {count} visual tokens for an answer of {tokens}",
                f"{spent}, {stream.seconds / prefill.seconds:.1f} prefills",
            ]
        )
        if textbook := by.get(("textbook", count, response)):
            memory, seconds = stream.peak_bytes / textbook.peak_bytes, stream.seconds / textbook.seconds
            lines.append(["  of the textbook form's", f"{100 * seconds:.0f}% time, {100 * memory:.0f}% memory"])
    for form in _FORMS:
        if len({cost.n_visual for cost in costs if cost.form == form}) > 1:
            grows = exponents(costs, form)
            lines.append([f"  {form} grows as", f"n^{grows['memory']:.2f} in memory, n^{grows['time']:.2f} in time"])
    return lines


def summary(shape: Shape, costs: Sequence[Cost]) -> dict[str, Any]:
    """For bench.json."""
    measured: tuple[Form, ...] = ("streaming", "textbook", "prefill")
    return {
        "shape": asdict(shape),
        "response_tokens": RESPONSE,
        "costs": [asdict(cost) for cost in costs],
        "exponents": {
            form: exponents(costs, form)
            for form in measured
            if len({cost.n_visual for cost in costs if cost.form == form}) > 1
        },
    }


def _alone(shape: Shape, form: Form, n_visual: int, response: int = RESPONSE) -> Cost:
    asked = json.dumps([asdict(shape), form, n_visual, response])
    code = "import sys; from harness.bench.relevance import child; child(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, asked],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return Cost(form, n_visual, response=response, **json.loads(done.stdout.splitlines()[-1]))


def child(asked: str) -> None:
    """Measures one form at one length in this process and prints it as JSON."""
    import torch

    from harness.bench.meter import peak_memory
    from model_wrappers.selection import stopwatch

    shape, form, n_visual, response = json.loads(asked)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _model(Shape(**shape), device)
    work(model, form, 64)()  # what only the first call pays
    run = work(model, form, n_visual, response)
    seconds, peak = [], 0
    repeats = 3 if n_visual <= 2048 else 1
    for _ in range(repeats):
        with peak_memory(model.device) as held, stopwatch(model.device) as watch:
            run()
        seconds.append(watch.seconds)
        peak = max(peak, held.bytes)
    print(json.dumps({"seconds": sorted(seconds)[repeats // 2], "peak_bytes": peak}))


def work(model: Any, form: Form, n_visual: int, response_tokens: int = RESPONSE) -> Callable[[], Any]:
    """A call that does it once, on a made-up prompt."""
    import torch

    from model_wrappers.anatomy import language_model
    from model_wrappers.prompt import VisualPrompt, as_batch
    from model_wrappers.relevance.streaming import prompt_relevance
    from model_wrappers.relevance.textbook import textbook_relevance

    length, device = n_visual + TEXT, model.device
    visual = torch.zeros(length, dtype=torch.bool, device=device)
    visual[TEXT // 2 : TEXT // 2 + n_visual] = True
    generator = torch.Generator().manual_seed(0)
    prompt = VisualPrompt(
        input_ids=torch.ones(length, dtype=torch.long, device=device),
        inputs_embeds=torch.randn(length, model.config.get_text_config().hidden_size, generator=generator).to(
            device, model.dtype
        ),
        visual=visual,
        position_ids=torch.arange(length, device=device).expand(3, -1),
        next_position=length,
        grids=[(1, 1, n_visual)],
        sample_id="bench",
    )
    response = torch.arange(response_tokens, device=device) + 5

    def prefill() -> Any:
        with torch.no_grad():
            decoder = language_model(model)
            positions = as_batch(prompt.position_ids)
            hidden = decoder(inputs_embeds=prompt.inputs_embeds[None], position_ids=positions, use_cache=True)
            return model.lm_head(hidden.last_hidden_state[0, -1:])

    forms = {"streaming": prompt_relevance, "textbook": textbook_relevance}
    return prefill if form == "prefill" else lambda: forms[form](model, prompt, response)


def _model(shape: Shape, device: str) -> Any:
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig(
        text_config={
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads,
            "intermediate_size": shape.intermediate,
            "vocab_size": 1024,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": _sections(shape)},
        },
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": shape.hidden},
    )
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = Qwen2VLForConditionalGeneration(config)
    return model.to(device, dtype).eval()


def _sections(shape: Shape) -> list[int]:
    half = shape.hidden // shape.heads // 2
    return [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / across
