"""What a row of a results table costs: FLOPs and KV cache of its visual tokens, from what the layers worked on and what
they held, and the prefill that `retain efficiency` measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from harness import flops
from harness.experiments import Experiment, Row
from harness.store import Answer
from harness.tables.rows import MISSING, Costs, method_label, ratio
from model_wrappers.registry import method, settings_of
from model_wrappers.shape import Shape

FILE = "efficiency.json"
"""In the store: where `retain efficiency` puts its measurements."""
APART = 0.02
"""Shares of the visual tokens that a mean layer worked on, the row's and the measured one's, are the same budget up to
here. A method whose cost depends on what is shown may have done another work on the random pixels of a measurement."""


class Prices:
    """The costs of an experiment's rows, where it says for how many visual tokens (`costs_at`)."""

    def __init__(self, experiment: Experiment, store: Path, data: Path | None = None) -> None:
        """Raises UserError where the file of measurements cannot be read; `data` is the folder of the benchmarks."""
        self.experiment = experiment
        self._entries: dict[str, Mapping[str, Any]] = {}
        self._apart: list[str] = []
        if not experiment.costs_at:
            return
        from harness.benchmarks import benchmark
        from harness.efficiency.report import read

        media = {benchmark(name, data).modality for name in experiment.benchmarks}
        for entry in read(store / FILE):
            asked = experiment.costs_at.get(entry["model"])
            whole = entry["layers"]["language_model"] == entry["layers"]["of"]
            given = entry["input"]
            if asked == given["asked"] and given["media"] in media and whole:
                self._entries[entry["model"]] = entry

    def of(self, model: str, row: Row, keep: float, answers: Sequence[Answer]) -> Costs | None:
        """Of a row's answers; None where the experiment does not ask for costs."""
        tokens = self.experiment.costs_at.get(model)
        if tokens is None:
            return None
        counted = [answer for answer in answers if answer.visual and answer.by_layer]
        tflops = kv_bytes = prefill = None
        if counted:
            shape, made = self._shape(model), method(row.method, **row.fields)
            operations = flops.by_paper(shape, made, tokens, _at(tokens, counted, lambda answer: answer.by_layer))
            tflops = None if operations is None else operations / 1e12
            kv_bytes = shape.kv_bytes(_at(tokens, counted, lambda answer: answer.kv_visual))
            prefill = self._prefill(model, row, keep, fmean(_at(1, counted, lambda answer: answer.by_layer)))
        return Costs(tflops, prefill, kv_bytes)

    def _prefill(self, model: str, row: Row, keep: float, share: float) -> float | None:
        """Seconds, scoring included, where as large a share of the visual tokens was worked on, mean over layers."""
        if (measured := self._measured(model, row, keep)) is None:
            return None
        there = fmean(measured["visual_tokens_by_layer"]) / measured["visual_tokens"]
        if abs(there - share) > APART:
            named = f"{Path(model).name} {row.label or method_label(row.method)} at {ratio(keep)}"
            self._apart.append(f"{named}: {100 * there:.1f}%, here {100 * share:.1f}%")
            return None
        return float(measured["seconds"]["scoring"] + measured["seconds"]["prefill"])

    def _shape(self, model: str) -> Shape:
        """With the numbers that the experiment's dtype has; `auto` is the checkpoint's own."""
        shape, dtype = flops.shape_of(model), self.experiment.dtype
        return shape if dtype == "auto" else replace(shape, number_bytes=flops.BYTES[dtype])

    def _measured(self, model: str, row: Row, keep: float) -> Mapping[str, Any] | None:
        entry = self._entries.get(model)
        if entry is None:
            return None
        fields = settings_of(method(row.method, **row.fields))
        for variant in entry["variants"]:
            same = (variant["method"], variant["fields"], variant["keep"]) == (row.method, fields, keep)
            if same and variant["attention"] == entry["attention"] and "lacking" not in variant:
                return variant
        return None

    def notes(self) -> list[str]:
        """Footnotes of a table that has these costs, once all its rows were asked for."""
        if not self.experiment.costs_at:
            return []
        at = ", ".join(f"{Path(model).name} {tokens}" for model, tokens in self.experiment.costs_at.items())
        whose = "as the checkpoint stores them" if self.experiment.dtype == "auto" else self.experiment.dtype
        bits = {Path(model).name: 8 * self._shape(model).number_bytes for model in self.experiment.costs_at}
        found = [
            "TFLOPs (paper): of the visual tokens in the language model, by the paper's eq. 4 to 6; of the choosing "
            f"only the compressor's is counted. For {at}.",
            "KV (MiB): keys and values of as many visual tokens, counted from what the layers held. Bits of a number, "
            f"{whose}: {', '.join(f'{name} {count}' for name, count in bits.items())}.",
        ]
        if not self._entries:
            return [*found, "Prefill: not measured on this machine; `retain efficiency` does, for as many tokens."]
        from harness.efficiency.report import hardware

        machines = dict.fromkeys(hardware(entry) for entry in self._entries.values())
        said = f"Prefill (ms): of the whole prompt, scoring included. Measured on {'; '.join(machines)}."
        ran = {Path(model).name: (model, entry["dtype"]) for model, entry in self._entries.items()}
        others = [
            f"{name} in {dtype}"
            for name, (model, dtype) in ran.items()
            if flops.BYTES[dtype] != self._shape(model).number_bytes
        ]
        if others:
            said += f" It ran in numbers of another size than KV is counted in: {', '.join(others)}."
        found.append(said)
        if self._apart:
            found.append(
                f"{MISSING} under Prefill: measured at another budget, as a method's cost may depend on what is shown, "
                f"and shown were random pixels. Visual tokens worked on, mean over layers: {'; '.join(self._apart)}."
            )
        return found


def _at(tokens: int, answers: Sequence[Answer], part: Callable[[Answer], list[int] | None]) -> list[float]:
    """By layer, a part of `tokens` visual tokens: as large as that of the answers' prompts is, on average."""
    shares = [[count / (answer.visual or 1) for count in part(answer) or ()] for answer in answers]
    return [tokens * fmean(layer) for layer in zip(*shares, strict=True)]
