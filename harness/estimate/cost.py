"""What the answers that a run still lacks would take: tokens, operations, hours of one GPU, and a judge's money."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.estimate.cells import Cell, Cells
from harness.estimate.inputs import input_of
from harness.estimate.lengths import RESPONSE, TEXT
from harness.estimate.memory import BYTES, parameters
from harness.estimate.sizes import LOOKED_AT, Sizes
from harness.experiments import Experiment, Judge
from harness.flops import PromptSize, Shape, UnknownInput, count, shape_of
from harness.judging.estimate import BYTES_A_TOKEN, REPLY_TOKENS, VERDICT_TOKENS, WORDS, Estimate, price_for
from harness.judging.models import passed

if TYPE_CHECKING:
    from harness.benchmarks import Benchmark

GPU, PEAK, BANDWIDTH = "NVIDIA A100 80 GB", 312e12, 2.039e12
"""Its dense bfloat16 operations a second and bytes a second, as NVIDIA's data sheet has them."""
PREFILL, DECODE = 0.4, 0.3
"""Shares of these taken to be reached, by a prefill and by decoding with transformers' generate()."""


@dataclass(frozen=True)
class Line:
    """One model on one benchmark.

    new, answered, undefined: cells. answers: those that lack. visual: tokens of a sample. flops: exact operations of
    all answers. seconds: of one `GPU`. calls, dollars: of the judge; dollars None where its price is not known.
    """

    model: str
    benchmark: str
    new: int
    answered: int
    undefined: int
    samples: int
    answers: int
    visual: int
    flops: float
    seconds: float
    calls: int = 0
    dollars: float | None = 0.0


def lines(experiment: Experiment, cells: Cells) -> list[Line]:
    """The cost of every model and benchmark of an experiment, in its order. UserError as from `harness.flops.count`."""
    from harness.benchmarks import benchmark

    found = []
    for model in experiment.models:
        for name in experiment.benchmarks:
            own = [cell for cell in cells.cells if (cell.model, cell.benchmark) == (model, name)]
            undefined = cells.undefined.get((model, name), 0)
            if own or undefined:
                line = _line(experiment, model, benchmark(name, cells.folder), own, undefined, cells.sizes.get(name))
                found.append(_judged(line, cells.judging.get(name)))
    return found


def _line(
    experiment: Experiment,
    model: str,
    entry: Benchmark,
    cells: Sequence[Cell],
    undefined: int,
    sizes: Sizes | None,
) -> Line:
    from harness.plan import info_of

    info, frames = info_of(experiment, model), experiment.frames_of(model)
    shown = input_of(info, experiment.settings_of(model), entry.modality, frames, sizes)
    response = RESPONSE[entry.kind]
    prompt = PromptSize(shown.visual, TEXT, TEXT, shown.pictures, response, entry.modality)
    shape = shape_of(model)
    lacking = [cell for cell in cells if cell.lacking]
    answers = sum(cell.lacking for cell in lacking)
    flops = _vision(shape, prompt) * max((cell.lacking for cell in lacking), default=0)
    seconds = flops / (PEAK * PREFILL)
    for cell in lacking:
        prefill, decoding, moved = _answer(shape, cell, prompt)
        flops += cell.lacking * (prefill + decoding)
        seconds += cell.lacking * (prefill / (PEAK * PREFILL) + moved / (BANDWIDTH * DECODE))
    return Line(
        model,
        entry.name,
        len(lacking),
        len(cells) - len(lacking),
        undefined,
        max((cell.samples for cell in cells), default=0),
        answers,
        shown.visual,
        flops,
        seconds,
    )


def _judged(line: Line, asked: Estimate | None) -> Line:
    """With its share of what the judge of its benchmark will take: of all of a model's cells, also those answered."""
    if asked is None or not asked.calls:
        return line
    calls = (line.new + line.answered) * line.samples
    dollars = None if asked.dollars is None else asked.dollars * calls / asked.calls
    return replace(line, calls=calls, dollars=dollars)


def _vision(shape: Shape, prompt: PromptSize) -> float:
    """Operations of the encoder on a whole sample: once for all methods and keeps."""
    from model_wrappers.methods.vanilla import Vanilla

    return count(shape, Vanilla(), 1.0, prompt).exact.vision or 0.0


def _answer(shape: Shape, cell: Cell, prompt: PromptSize) -> tuple[float, float, float]:
    """Operations of one answer's prefill, scoring and cheaper input included, and of its decoding; bytes that the
    decoding reads: at each token all weights of the decoder, and the KV cache.
    """
    from model_wrappers.methods.base import InputTransform
    from model_wrappers.methods.uniform import Uniform

    own = 0.0  # what it takes to encode an input of its own
    try:
        one = count(shape, cell.method, cell.keep, prompt)
        if isinstance(cell.method, InputTransform) and cell.keep < 1:
            own = one.exact.vision or 0.0
    except UnknownInput:  # then as much of the input as a cut leaves
        one, own = count(shape, Uniform(), cell.keep, prompt), _vision(shape, prompt) * cell.keep
    prefill = one.exact.decoder + one.exact.head + (one.exact.scoring or 0.0) + own
    decoder = shape.decoder
    step = sum(decoder.layer(1, held + prompt.text) for held in one.held) + decoder.head(1)
    cache = sum(decoder.kv_numbers(held + prompt.text) for held in one.held)
    weights = parameters(replace(shape, tower=None), tied=True)  # of the embedding, one row is read
    return prefill, prompt.response * step, prompt.response * BYTES * (weights + cache)


def assumptions(experiment: Experiment, found: Sequence[Line]) -> list[str]:
    """What the numbers rest on, in sentences."""
    notes = [
        f"Visual tokens are those that the settings fix; else, those of a typical one of {LOOKED_AT} samples, or, "
        f"without the data, of an image of 384 x 512 or a video of 720 x 1280 pixels. Assumed are {TEXT} text tokens a "
        f"prompt, and answers of {RESPONSE['choice']} tokens to choices and of {RESPONSE['open']} to open questions.",
        "TFLOPs (exact): every matrix product of prefill and decoding, a multiply-add as two; the vision encoder once "
        "a sample for all methods. A method that does not say what its choosing takes counts without it.",
        f"GPU hours are an estimate for one {GPU}: {PEAK / 1e12:.0f} TFLOP/s at {PREFILL:.0%} in the prefill, "
        f"{BANDWIDTH / 1e12:.2f} TB/s at {DECODE:.0%} in decoding. Reading videos and loading weights are not in them.",
    ]
    if any(line.calls for line in found):
        notes += _judges(experiment, {line.benchmark: None for line in found if line.calls})
    return notes


def _judges(experiment: Experiment, benchmarks: Iterable[str]) -> list[str]:
    """What is assumed of judges, what their tokens cost, and which of them may be served no more."""
    found = [judge for name in benchmarks if isinstance(judge := experiment.judge_of(name), Judge)]
    judges = {str(judge.model): judge for judge in found}
    told = ", ".join(f"{name} {_price(judge)}" for name, judge in sorted(judges.items()))
    notes = [
        f"Judge: at most a call an answer, those that are there and judged included; its protocol's own words around "
        f"the question (without the data: of {WORDS} words), {REPLY_TOKENS} tokens of answer, {VERDICT_TOKENS} of "
        f"verdict, {BYTES_A_TOKEN} bytes a token. Prices: {told}."
    ]
    clauses = [passed(judge.base_url, name) for name, judge in sorted(judges.items())]
    return [*notes, *(f"Judge: {clause}." for clause in clauses if clause)]


def _price(judge: Judge) -> str:
    price = price_for(judge)
    if price is None:
        return "not known"
    dated = f"{price.source}, {price.date}" if price.date else price.source
    return f"{price.prompt:g} and {price.completion:g} USD a million tokens ({dated})"
