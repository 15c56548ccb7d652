"""PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction
(arXiv 2410.17247; Cooperx521/PyramidDrop, llava/model/modeling_llama_pdrop.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.errors import UserError
from model_wrappers.methods.base import LayerPruner

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class PyramidDrop(LayerPruner):
    """Equal stages of layers, after each of which the visual tokens shrink by the same factor lambda.

    The score is the attention of the last prompt token in the layer *behind* the cut, on what would enter it uncut
    (post-softmax, mean over heads), and positions are counted anew after each cut ("renumber", as the official code).

    `keep` is what the last stage works on, as it is FastV's share after its one cut: lambda = keep^(1 / (stages - 1)).
    The official setting (cuts after layers 8, 16 and 24 of 32, shares 1/2, 1/4, 1/8) is stages=4 at keep=0.125; other
    depths are cut at the same fractions. The mean over all layers is higher: 46.9% there, and never below 1/stages. To
    compare at equal means, choose keeps by equivalent tokens. The rows of 2506.01097's Table 7 give means (30.0%,
    25.4%) and no plan; their FLOPs (3.8 T, 3.2 T) need a first cut before the first quarter of the layers, so they are
    not of the official fractions.

    Where the official code differs: it is written for a key head a query head (here the heads of a group share one),
    takes int() of each count (here the one rounding rule), and one image a prompt (here one ranking over all of them).
    """

    name: ClassVar[str] = "pyramiddrop"
    looks: ClassVar[Literal["before", "behind"]] = "behind"
    stages: int = 4
    positions: Literal["own", "renumber"] = field(default="renumber", kw_only=True)

    def __post_init__(self) -> None:
        if self.stages < 2:
            raise UserError(f"pyramiddrop: stages={self.stages}, but one stage cuts nothing: 2 or more")

    def check(self, model: Any) -> None:
        from model_wrappers.anatomy import n_layers

        if self.stages > n_layers(model):
            raise UserError(f"pyramiddrop: stages={self.stages}, but the model has {n_layers(model)} layers")

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        last = self.stages - 1
        return {int(n_layers * cut / self.stages + 0.5): keep ** (cut / last) for cut in range(1, last + 1)}

    def score(self, layer: nn.Module, hidden: Tensor, position_embeddings: Any, visual: Tensor) -> Tensor:
        from model_wrappers.relevance.attention import attention_rows

        last = hidden.shape[0] - 1
        return attention_rows(layer, hidden, last, last + 1, position_embeddings)[0, visual]

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        """One query row at each cut, on the rows that enter it."""
        held = self.counts(shape.decoder.layers, keep, prompt.visual)
        cuts = self.plan(shape.decoder.layers, keep)
        return sum(shape.decoder.attention_rows(1, held[cut - 1] + prompt.text) for cut in cuts)
