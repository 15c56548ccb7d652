"""FastV as its official code scores: from an attention map that eager attention made. Measured only, no method.

pkunlp-icler/FastV (src/transformers/.../modeling_llama.py) reads the map of the last full layer, means it over the
heads and takes the last row. For that every layer runs eager attention, which writes all maps [heads, L, L] to memory.
Retain's own `fastv` computes that one row beside whatever kernel the model runs, and keeps the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from model_wrappers.compression import check
from model_wrappers.layer_cut import LayerCut
from model_wrappers.methods.fastv import FastV
from model_wrappers.prompt import VisualPrompt
from model_wrappers.relevance.response import run_generate
from model_wrappers.selection import Record


@dataclass(frozen=True)
class _FromMap(FastV):
    """FastV with its scores read off the map [1, heads, L, L] that `seen` holds."""

    seen: list[Tensor] = field(default_factory=list, compare=False)

    def score(self, layer: nn.Module, hidden: Tensor, position_embeddings: Any, visual: Tensor) -> Tensor:
        return self.seen.pop().mean(dim=1)[0, -1, visual].float()


class MapCut(LayerCut):
    """FastV's cut of one prompt, its scores read off the eager map of the layer before the cut."""

    def __init__(self, model: Any, method: FastV, keep: float) -> None:
        self.maps: list[Tensor] = []
        super().__init__(model, _FromMap(layer=method.layer, seen=self.maps), keep)

    def attach(self) -> None:
        super().attach()
        for index in self.plan:
            self._handles.append(self.decoder.layers[index - 1].self_attn.register_forward_hook(self._read))

    def _read(self, attention: Any, args: Any, output: tuple[Tensor, Tensor | None]) -> None:
        maps = output[1]
        if maps is None:
            raise ValueError("FastV by attention maps needs eager attention: another kernel makes no map")
        if maps.shape[-2] > 1:  # not a decode step
            self.maps.append(maps)


def generate(model: Any, prompt: VisualPrompt, method: FastV, keep: float, **settings: Any) -> tuple[Tensor, Record]:
    """`model_wrappers.compression.generate` with the scores of an eager map; the decoder must run eager attention."""
    cut = MapCut(model, method, check(model, method, keep))
    cut.begin([prompt], None)
    cut.attach()
    try:
        answer = run_generate(model, prompt, None, **settings)[0]
    finally:
        cut.detach()
    return answer, cut.records()[0]
