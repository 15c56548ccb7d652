"""What exact relevance costs: the streaming form against the textbook form, how each grows, and against a prefill.

A language model of the shape of Qwen2-VL's smallest decoder layers, cut to a few layers, with random weights: cost does
not depend on what the weights are. Every measurement is a process of its own, so that the memory of one cannot hide in
that of another. Where the forms are compared they take turns, `ROUNDS` times, and medians count; what they find is
compared, too. Beside them stands a plain forward and backward pass, the floor of time for any exact relevance.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.bench.machine import say

Form = Literal["textbook", "streaming", "plain", "prefill"]
"""`plain`: the prompt forward and back on SDPA, all activations kept, for the gradient of the embeddings alone."""
_FORMS: tuple[Form, ...] = ("streaming", "textbook")
"""Of relevance."""

BOTH, ALONE = (512, 1536, 3072), (6144, 12288, 24576)
"""Visual tokens: at the first the two forms are compared, at all of them streaming is measured."""
TEXT = 40
"""Rows of text around the visual tokens."""
ROUNDS = 3
"""How often the forms take turns at each of `BOTH`; what takes minutes is measured once."""
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
    """Of one form at one length: seconds, and the most bytes beyond the weights and the prompt; medians of the rounds.

    `response`: tokens of the answer that is explained.
    """

    form: Form
    n_visual: int
    seconds: float
    peak_bytes: int
    response: int = RESPONSE


@dataclass(frozen=True)
class Measured:
    """All costs, and by visual tokens how far the two forms' results differ, in parts of the largest score."""

    costs: list[Cost] = field(default_factory=list)
    differences: dict[int, float] = field(default_factory=dict)
    threads: int = 0
    """Of torch, in the processes that were measured."""


def measure(shape: Shape, both: Sequence[int] = BOTH, alone: Sequence[int] = ALONE) -> Measured:
    """Everything, each measurement from a fresh process."""
    costs: list[Cost] = []
    differences: dict[int, float] = {}
    threads = 0
    for count in (*both, *alone):
        forms: tuple[Form, ...] = ("streaming", "prefill", *(("textbook", "plain") if count in both else ()))
        runs: dict[Form, list[dict[str, Any]]] = {form: [] for form in forms}
        for _ in range(ROUNDS if count in both else 1):
            for form in forms:
                say(f"relevance of {count} visual tokens: {form}")
                runs[form].append(_alone(shape, form, count))
        costs += [_cost(form, count, RESPONSE, runs[form]) for form in forms]
        threads = runs["streaming"][0]["threads"]
        if count in both:
            differences[count] = _apart(*(runs[form][0]["scores"] for form in _FORMS))
    if OFTEN in both:
        say(f"relevance of {OFTEN} visual tokens for an answer of {LONGER} tokens: both forms")
        costs += [_cost(form, OFTEN, LONGER, [_alone(shape, form, OFTEN, LONGER)]) for form in _FORMS]
    return Measured(costs, differences, threads)


def exponents(costs: Sequence[Cost], form: Form, of: Form | None = None) -> dict[str, float]:
    """k in cost ~ n^k for memory and time: the slope of a straight line through the logarithms.

    Args:
        of: only where this form, too, is measured.
    """
    shared = {cost.n_visual for cost in costs if cost.form == (of or form)}
    chosen = [cost for cost in costs if cost.form == form and cost.response == RESPONSE and cost.n_visual in shared]
    counts = [math.log(cost.n_visual) for cost in chosen]
    return {
        "memory": _slope(counts, [math.log(max(1, cost.peak_bytes)) for cost in chosen]),
        "time": _slope(counts, [math.log(cost.seconds) for cost in chosen]),
    }


def rows(measured: Measured) -> list[list[str]]:
    """Lines of the report: streaming at each length, beside the textbook form where there is one, and the prefill."""
    costs = measured.costs
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
            if plain := by.get(("plain", count, response)):
                floor = f"{100 * plain.seconds / textbook.seconds:.0f}% time"
                lines.append(["  a plain forward and backward pass, the floor", floor])
            if response == RESPONSE and count in measured.differences:
                largest = f"{measured.differences[count]:.0e} of the largest score"
                lines.append(["  the two forms' results differ by at most", largest])
    for name, grows in _growths(costs).items():
        lines.append([f"  {name} grows as", f"n^{grows['memory']:.2f} in memory, n^{grows['time']:.2f} in time"])
    if measured.threads:
        lines.append(["  torch threads in these measurements", str(measured.threads)])
    return lines


def summary(shape: Shape, measured: Measured) -> dict[str, Any]:
    """For bench.json."""
    return {
        "shape": asdict(shape),
        "response_tokens": RESPONSE,
        "rounds": ROUNDS,
        "torch_threads": measured.threads,
        "costs": [asdict(cost) for cost in measured.costs],
        # As text: they are below what the file's other numbers are rounded to.
        "differences": {str(count): f"{apart:.1e}" for count, apart in measured.differences.items()},
        "exponents": _growths(measured.costs),
    }


def _growths(costs: Sequence[Cost]) -> dict[str, dict[str, float]]:
    """`exponents` of each form that is measured at several lengths; streaming's where the textbook form is, too."""
    measured: tuple[Form, ...] = ("streaming", "textbook", "plain", "prefill")
    lengths = {form: {cost.n_visual for cost in costs if cost.form == form} for form in measured}
    found = {str(form): exponents(costs, form) for form in measured if len(lengths[form]) > 1}
    if 1 < len(lengths["textbook"]) < len(lengths["streaming"]):
        found[f"streaming to {max(lengths['textbook'])} tokens"] = exponents(costs, "streaming", "textbook")
    return found


def _cost(form: Form, n_visual: int, response: int, runs: Sequence[dict[str, Any]]) -> Cost:
    seconds, peak = (statistics.median(run[each] for run in runs) for each in ("seconds", "peak_bytes"))
    return Cost(form, n_visual, seconds, int(peak), response)


def _apart(found: Sequence[float], expected: Sequence[float]) -> float:
    largest = max(abs(score) for score in expected)
    return max(abs(one - other) for one, other in zip(found, expected, strict=True)) / largest


def _alone(shape: Shape, form: Form, n_visual: int, response: int = RESPONSE) -> dict[str, Any]:
    """What `child` prints, from a process of its own."""
    asked = json.dumps([asdict(shape), form, n_visual, response])
    code = "import sys; from harness.bench.relevance import child; child(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, asked],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(asked: str) -> None:
    """Measures one form at one length in this process and prints it as JSON, and the relevance where it is one."""
    import torch

    from harness.bench.meter import peak_memory
    from model_wrappers.selection import stopwatch

    shape, form, n_visual, response = json.loads(asked)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _model(Shape(**shape), device)
    work(model, form, 64)()  # what only the first call pays
    run = work(model, form, n_visual, response)
    with peak_memory(model.device) as held, stopwatch(model.device) as watch:
        found = run()
    scores = found.tolist() if form in _FORMS else None
    measured = {"seconds": watch.seconds, "peak_bytes": held.bytes, "threads": torch.get_num_threads()}
    print(json.dumps({**measured, "scores": scores}))


def work(model: Any, form: Form, n_visual: int, response_tokens: int = RESPONSE) -> Callable[[], Any]:
    """A call that does it once, on a made-up prompt."""
    import torch

    from model_wrappers.anatomy import language_model
    from model_wrappers.prompt import VisualPrompt, as_batch
    from model_wrappers.relevance.streaming import prompt_relevance
    from model_wrappers.relevance.targets import frozen
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

    def plain() -> Any:
        decoder, embeds = language_model(model), prompt.inputs_embeds[None].detach().requires_grad_()
        with torch.enable_grad(), frozen(model):
            hidden = decoder(inputs_embeds=embeds, position_ids=as_batch(prompt.position_ids), use_cache=False)
            score = model.lm_head(hidden.last_hidden_state[0, -1])[response[0]]
            return torch.autograd.grad(score, embeds)

    calls: dict[Form, Callable[[], Any]] = {
        "streaming": lambda: prompt_relevance(model, prompt, response),
        "textbook": lambda: textbook_relevance(model, prompt, response),
        "plain": plain,
        "prefill": prefill,
    }
    return calls[form]


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
