"""FastV: An Image is Worth 1/2 Tokens After Layer 2 (arXiv 2403.06764; pkunlp-icler/FastV, src/transformers,
models/llama/modeling_llama.py; with a KV cache src/FastV/lmms-eval/fastv_kvcache.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.errors import UserError
from model_wrappers.methods.base import LayerPruner

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class FastV(LayerPruner):
    """Attention of the last prompt token to each visual token, post-softmax, mean over heads; one cut, at prefill.

    `layer` counts as the paper's Tables 7 and 8 do: "the 4th layer" is the first that works on fewer tokens. So layer=4
    runs the layers of index 0, 1, 2 in full, scores with the attention of index 2 and cuts at the input of index 3. The
    official K counts the layers that run in full: K = 2, the paper's, is layer=3 here.

    As in the mode with a KV cache: one cut, at the prefill, after which the layers from there on hold the kept tokens
    only and those before it all of them (without a cache the official code ranks anew at each step). Kept tokens keep
    their places, in their order, and decoding goes on after the uncut length ("own").

    Where the official code differs: it is written for a key head a query head (here the heads of a group share one, and
    the mean is over query heads), it takes the scores off the map of eager attention (here the one row that is read is
    computed beside the model's own kernel), its number of tokens is a setting, or int() or round() of a share by port
    (here the one rounding rule), and the visual tokens are one span of known length (here wherever they stand, all
    images of a prompt in one ranking).
    """

    name: ClassVar[str] = "fastv"
    layer: int = 4

    def __post_init__(self) -> None:
        if self.layer < 2:
            raise UserError(f"fastv: layer={self.layer}, but the first layer must run in full: 2 or more")

    def check(self, model: Any) -> None:
        from model_wrappers.anatomy import n_layers

        if self.layer > n_layers(model):
            raise UserError(f"fastv: layer={self.layer}, but the model has {n_layers(model)} layers")

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        return {self.layer - 1: keep}

    def score(self, layer: nn.Module, hidden: Tensor, position_embeddings: Any, visual: Tensor) -> Tensor:
        from model_wrappers.relevance.attention import attention_rows

        last = hidden.shape[0] - 1
        return attention_rows(layer, hidden, last, last + 1, position_embeddings)[0, visual]

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        return shape.decoder.attention_rows(1, prompt.length)
