"""What is measured side by side: vanilla, each method at each keep, and FastV as its official code scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harness.efficiency import fastv_maps
from harness.tables.rows import method_label
from model_wrappers.anatomy import language_model
from model_wrappers.compression import generate
from model_wrappers.methods.base import Method, Vanilla
from model_wrappers.methods.fastv import FastV
from model_wrappers.prompt import VisualPrompt
from model_wrappers.registry import settings_of
from model_wrappers.selection import Record


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    method: Method
    keep: float
    eager: bool = False
    """The language model runs eager attention, which writes whole attention maps, and not the model's own kernel. FastV
    then scores from a map."""

    @property
    def fields(self) -> dict[str, Any]:
        """The method's hyper-parameters."""
        return settings_of(self.method)

    @property
    def label(self) -> str:
        """The method's name for readers, with the fields that are not its defaults."""
        told = [
            f"{each.name}={value}"
            for each in dataclasses.fields(self.method)
            if (value := getattr(self.method, each.name)) != each.default
        ]
        if self.eager and isinstance(self.method, FastV):
            told.append("attention maps")
        name = method_label(self.method.name)
        return f"{name} ({', '.join(told)})" if told else name

    def answer(self, model: Any, prompt: VisualPrompt, new_tokens: int) -> tuple[Tensor, Record]:
        """Answers with exactly so many tokens; the decoder runs this variant's kernel."""
        settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        if not self.eager:
            return generate(model, prompt, self.method, self.keep, **settings)
        with _eager(model):
            if isinstance(self.method, FastV):
                return fastv_maps.generate(model, prompt, self.method, self.keep, **settings)
            return generate(model, prompt, self.method, self.keep, **settings)


def variants(methods: Sequence[Method], keeps: Sequence[float]) -> list[Variant]:
    """Vanilla, then each method at each keep. Where FastV is among them, also what its official code does: scores from
    attention maps; and vanilla with eager attention, with which papers on FastV have compared.
    """
    found = [Variant(Vanilla(), 1.0)]
    found += [Variant(method, keep) for method in methods for keep in keeps]
    maps = [Variant(method, keep, eager=True) for method in methods if type(method) is FastV for keep in keeps]
    return [*found, Variant(Vanilla(), 1.0, eager=True), *maps] if maps else found


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    config = language_model(model).config
    kernel = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = kernel
