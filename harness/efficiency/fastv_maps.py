"""FastV as its official code scores: from an attention map that eager attention made. Measured only, no method.

pkunlp-icler/FastV (src/transformers/.../modeling_llama.py) reads the map of the last full layer, means it over the
heads and takes the last row. For that every layer runs eager attention, which writes all maps [heads, L, L] to memory.
Retain's own `fastv` computes that one row beside whatever kernel the model runs, and keeps the same tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from model_wrappers.compression import check
from model_wrappers.layer_cut import LayerCut
from model_wrappers.methods.fastv import FastV
from model_wrappers.prompt import VisualPrompt
from model_wrappers.relevance.response import run_generate
from model_wrappers.selection import Record, stopwatch


class MapCut(LayerCut):
    """FastV's cut of one prompt, its scores read off the eager map of the layer before the cut."""

    def attach(self) -> None:
        for index in range(min(self.plan), self.n_layers):
            layer = self.decoder.layers[index]
            self._handles.append(layer.register_forward_pre_hook(self._shorten(index), with_kwargs=True))
        for index in self.plan:
            self._handles.append(self.decoder.layers[index - 1].self_attn.register_forward_hook(self._read))

    def _read(self, attention: Any, args: Any, output: tuple[Tensor, Tensor | None]) -> None:
        states, maps = output
        if maps is None:
            raise ValueError("FastV by attention maps needs eager attention: another kernel makes no map")
        if maps.shape[-2] == 1:
            return  # a decode step
        with stopwatch(states.device) as watch:
            self._scores[0] = maps.mean(dim=1)[0, -1, self._visual[0].to(states.device)].float()
        self._seconds[0] += watch.seconds


def generate(model: Any, prompt: VisualPrompt, method: FastV, keep: float, **settings: Any) -> tuple[Tensor, Record]:
    """`model_wrappers.compression.generate` with the scores of an eager map; the decoder must run eager attention."""
    cut = MapCut(model, method, check(model, method, keep))
    cut.begin([prompt], None)
    cut.attach()
    try:
        answer = run_generate(model, prompt, None, **settings)
    finally:
        cut.detach()
    return answer, cut.records()[0]
