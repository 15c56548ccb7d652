"""What the answers that a run still lacks would take: tokens, operations, hours of one GPU, and a judge's money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.estimate.cells import Cell, Cells
from harness.estimate.inputs import input_of
from harness.estimate.memory import BYTES, parameters
from harness.estimate.prices import price_of
from harness.estimate.samples import RESPONSE, TEXT
from harness.estimate.sizes import LOOKED_AT, Sizes
from harness.experiments import Experiment, Judge
from harness.flops import PromptSize, Shape, count, shape_of

if TYPE_CHECKING:
    from harness.benchmarks import Benchmark

GPU, PEAK, BANDWIDTH = "NVIDIA A100 80 GB", 312e12, 2.039e12
"""Its dense bfloat16 operations a second and bytes a second, as NVIDIA's data sheet has them."""
PREFILL, DECODE = 0.4, 0.3
"""Shares of these taken to be reached, by a prefill and by decoding with transformers' generate()."""
ASKED = ("MMVet", "MMBench-Video", "ActivityNet-QA")
"""Benchmarks, by how they are scored, whose judge is asked about every answer; others' where no choice can be read."""
LETTERS, WORDS, VERDICT = 4, 20, 16
"""Characters of a token, words of a question, tokens of a verdict: assumptions."""


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
    calls: int
    dollars: float | None


def lines(experiment: Experiment, cells: Cells) -> list[Line]:
    """The cost of every model and benchmark of an experiment, in its order. UserError as from `harness.flops.count`."""
    from harness.benchmarks import benchmark

    found = []
    for model in experiment.models:
        for name in experiment.benchmarks:
            own = [cell for cell in cells.cells if (cell.model, cell.benchmark) == (model, name)]
            undefined = cells.undefined.get((model, name), 0)
            if own or undefined:
                found.append(
                    _line(experiment, model, benchmark(name, cells.folder), own, undefined, cells.sizes.get(name))
                )
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
    prompt = PromptSize(shown.visual, TEXT, TEXT, shown.pictures, response)
    shape = shape_of(model)
    lacking = [cell for cell in cells if cell.lacking]
    answers = sum(cell.lacking for cell in lacking)
    flops = _vision(shape, prompt) * max((cell.lacking for cell in lacking), default=0)
    seconds = flops / (PEAK * PREFILL)
    for cell in lacking:
        prefill, decoding, moved = _answer(shape, cell, prompt)
        flops += cell.lacking * (prefill + decoding)
        seconds += cell.lacking * (prefill / (PEAK * PREFILL) + moved / (BANDWIDTH * DECODE))
    calls, dollars = _judged(experiment, entry.name, entry.scored_as, response, answers)
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
        calls,
        dollars,
    )


def _vision(shape: Shape, prompt: PromptSize) -> float:
    """Operations of the encoder on a whole sample: once for all methods and keeps."""
    from model_wrappers.methods.vanilla import Vanilla

    return count(shape, Vanilla(), 1.0, prompt).exact.vision or 0.0


def _answer(shape: Shape, cell: Cell, prompt: PromptSize) -> tuple[float, float, float]:
    """Operations of one answer's prefill, scoring and cheaper input included, and of its decoding; bytes that the
    decoding reads: at each token all weights of the decoder, and the KV cache.
    """
    from model_wrappers.methods.base import InputTransform

    one = count(shape, cell.method, cell.keep, prompt)
    prefill = one.exact.decoder + one.exact.head + (one.exact.scoring or 0.0)
    if isinstance(cell.method, InputTransform) and cell.keep < 1:  # encodes an input of its own
        own = one.exact.vision
        prefill += _vision(shape, prompt) * cell.keep if own is None else own
    decoder = shape.decoder
    step = sum(decoder.layer(1, held + prompt.text) for held in one.held) + decoder.head(1)
    cache = sum(decoder.kv_numbers(held + prompt.text) for held in one.held)
    weights = parameters(replace(shape, tower=None), tied=True)  # of the embedding, one row is read
    return prefill, prompt.response * step, prompt.response * BYTES * (weights + cache)


def _judged(experiment: Experiment, name: str, scored_as: str, response: int, answers: int) -> tuple[int, float | None]:
    """Calls of a benchmark's judge for so many answers, and their price in US dollars."""
    judge = experiment.judge_of(name)
    if not isinstance(judge, Judge) or scored_as not in ASKED:
        return 0, 0.0
    price = price_of(judge.model)
    return answers, None if price is None else answers * price.of(_asked(scored_as, response), VERDICT)


def _asked(scored_as: str, response: int) -> float:
    """Tokens of what a judge is asked about one answer: its protocol's own words around a question of `WORDS` words."""
    from harness.scoring import protocols

    words, reply = " ".join(["words"] * WORDS), "x" * LETTERS * response
    line: dict[str, Any] = {"question": words, "answer": words}
    questions = {
        "MMVet": lambda: protocols.correctness_score(line, reply),
        "MMBench-Video": lambda: protocols.rating(line, reply),
        "ActivityNet-QA": lambda: protocols.correctness(words, words, reply),
    }
    asked = questions[scored_as]()
    return (len(asked.system) + len(asked.prompt)) / LETTERS


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
        from harness.estimate.prices import DATE, PAGE

        judges = sorted(
            {judge.model for line in found if isinstance(judge := experiment.judge_of(line.benchmark), Judge)}
        )
        told = [f"{name} {_told(name)}" for name in judges]
        notes.append(
            f"Judge: a call an answer, its protocol's own words and {VERDICT} tokens of verdict, {LETTERS} characters "
            f"a token; repeated calls are not in it. Prices of {DATE} ({PAGE}): {', '.join(told)}."
        )
    return notes


def _told(model: str) -> str:
    price = price_of(model)
    return "not known" if price is None else f"{price.prompt:g} and {price.reply:g} USD a million tokens"
