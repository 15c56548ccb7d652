"""What the rounds say: medians, and ratios to vanilla with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.efficiency.measure import Measured, Measurement, Seconds


@dataclass(frozen=True)
class Ratio:
    """Vanilla's time over a variant's, round by round: the median, the lowest and the highest. Below 1 time is lost."""

    median: float
    low: float
    high: float

    @property
    def loses(self) -> bool:
        """Whether the variant is slower than vanilla."""
        return self.median < 1

    @classmethod
    def of(cls, vanilla: Measured, other: Measured, part: Callable[[Seconds], float]) -> Ratio:
        """Of one part of the time. Both were measured in the same rounds."""
        found = [part(a) / part(b) for a, b in zip(vanilla.rounds, other.rounds, strict=True)]
        return cls(statistics.median(found), min(found), max(found))


@dataclass(frozen=True)
class Line:
    """One variant of one measurement beside its vanilla; None where it cannot be run, or there is nothing to say.

    vision, scoring, prefill, decode: median seconds. llm, first, per_token: ratios of scoring and prefill, of the time
    from pixels to the first token, and of a decoded token. share: scoring / vanilla's prefill. ideal: vanilla's FLOPs /
    the variant's. reached: of that ratio, how much `llm` reaches.
    """

    measured: Measured
    label: str
    attention: str
    vision: float | None = None
    scoring: float | None = None
    prefill: float | None = None
    decode: float | None = None
    llm: Ratio | None = None
    first: Ratio | None = None
    per_token: Ratio | None = None
    share: float | None = None
    ideal: float | None = None
    reached: float | None = None


def lines(measurement: Measurement) -> list[Line]:
    """One for each variant, vanilla first."""
    vanilla = measurement.measured[0]
    return [_line(measurement, vanilla, each) for each in measurement.measured]


def _line(measurement: Measurement, vanilla: Measured, each: Measured) -> Line:
    attention = "eager" if each.variant.eager else measurement.kernel
    if each.lacking is not None:
        return Line(each, each.variant.label, attention)

    def middle(part: Callable[[Seconds], float], of: Measured = each) -> float:
        return statistics.median(part(one) for one in of.rounds)

    llm = Ratio.of(vanilla, each, lambda one: one.llm)
    ideal = vanilla.tflops / each.tflops if vanilla.tflops and each.tflops else None
    scoring = middle(lambda one: one.scoring)
    return Line(
        each,
        each.variant.label,
        attention,
        vision=middle(lambda one: one.vision),
        scoring=scoring,
        prefill=middle(lambda one: one.prefill),
        decode=middle(lambda one: one.decode),
        llm=llm,
        first=Ratio.of(vanilla, each, lambda one: one.first),
        per_token=Ratio.of(vanilla, each, lambda one: one.decode),
        share=scoring / middle(lambda one: one.prefill, vanilla),
        ideal=ideal,
        reached=llm.median / ideal if ideal else None,
    )


def as_json(measurement: Measurement) -> dict[str, Any]:
    """One entry of the file: what was measured, on what, and every round."""
    request = measurement.request
    text, vision = request.whole
    config = request.config
    depth = getattr(config.vision_config, "depth", None) or config.vision_config.num_hidden_layers
    return {
        "command": request.command,
        "model": request.model,
        "weights": "random" if request.random_weights else "checkpoint",
        "layers": {"language_model": config.get_text_config().num_hidden_layers, "of": text},
        "vision_layers": {"vision_encoder": depth, "of": vision},
        "input": {
            "media": request.given.media,
            "asked": request.tokens,
            "visual_tokens": measurement.n_visual,
            "said": request.given.said,
        },
        "text_tokens": int(request.given.tensors["input_ids"].shape[1]) - measurement.n_visual,
        "decoded_tokens": request.decoded,
        "repeats": request.repeats,
        "device": measurement.device,
        "dtype": measurement.dtype,
        "attention": measurement.kernel,
        "machine": {**measurement.machine, "load": measurement.load, "load_after": measurement.load_after},
        "variants": [_variant(line) for line in lines(measurement)],
    }


def _variant(line: Line) -> dict[str, Any]:
    each = line.measured
    named = {
        "method": each.variant.method.name,
        "label": line.label,
        "fields": each.variant.fields,
        "keep": each.variant.keep,
        "attention": line.attention,
    }
    if each.lacking is not None:
        return {**named, "lacking": each.lacking}
    seconds = {name: getattr(line, name) for name in ("vision", "scoring", "prefill", "decode")}
    ratios = {name: getattr(line, name) for name in ("llm", "first", "per_token")}
    return {
        **named,
        "visual_tokens": each.visual,
        "kept": each.kept,
        "visual_tokens_by_layer": each.by_layer,
        "kv_bytes": each.kv_bytes,
        "peak_bytes": each.peak_bytes,
        "tflops": each.tflops,
        "seconds": seconds,
        "rounds": [{name: getattr(one, name) for name in seconds} for one in each.rounds],
        "vanilla_over_this": {
            name: {"median": ratio.median, "low": ratio.low, "high": ratio.high} for name, ratio in ratios.items()
        },
        "scoring_over_vanilla_prefill": line.share,
        "flops_ratio": line.ideal,
        "reached": line.reached,
    }
