"""DART: Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More (arXiv 2502.11494;
ZichenWen1/DART, Qwen2-VL/Qwen2VL_DART/modeling_qwen2_vl_self.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Cut, LayerPruner, Passage
from model_wrappers.shape import product

if TYPE_CHECKING:
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class DART(LayerPruner):
    """Pivots, and the tokens that are least alike to them. One cut, at the input of the layer of index `pruned_layer`.

    Pivots are the visual tokens and the text tokens behind the last visual one whose keys in the layer before the cut
    have the largest L1 norm. Each pivot in turn takes the int(N_v * keep / pivots) visual tokens still free with the
    lowest cosine to it, on the hidden states after the model's final norm. What is kept is theirs and the visual
    pivots: with the defaults 8 * int(N_v * keep / 8) + 4 tokens, four more or fewer than the share asked for. That is
    what is recorded. (It is less where fewer than four tokens of text come after the last visual one.)

    Keys are as cached: rotated, and of key heads; copying them to query heads, as the official code does on some
    kernels, multiplies every norm by the same number. Where the official code differs: pivots take their turns in the
    order of a Python set of row numbers (here the visual, then the text ones, largest norm first). Positions stay
    ("own"), as there. Nothing of the vision encoder is looked at, so none without CLS needs a substitute.
    """

    name: ClassVar[str] = "dart"
    pruned_layer: int = 2
    pivot_image_token: int = 4
    pivot_text_token: int = 4

    def __post_init__(self) -> None:
        for name, least in (("pruned_layer", 1), ("pivot_image_token", 1), ("pivot_text_token", 0)):
            if getattr(self, name) < least:
                raise UserError(f"dart: {name}={getattr(self, name)}, allowed is {least} or more")

    def check(self, model: Any) -> None:
        from model_wrappers.anatomy import n_layers

        if self.pruned_layer >= n_layers(model):
            raise UserError(
                f"dart: pruned_layer={self.pruned_layer}, but the last layer has index {n_layers(model) - 1}"
            )

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        return {self.pruned_layer: keep}

    def left(self, share: float, n_visual: int, there: int) -> int:
        pivots = self.pivot_image_token + self.pivot_text_token
        return min(there, self.pivot_image_token + pivots * self._each(share, n_visual))

    def cut(self, passage: Passage, share: float) -> Cut:
        import torch

        from model_wrappers.relevance.attention import keys

        visual = passage.visual.nonzero().squeeze(1)
        text = torch.arange(int(visual[-1]) + 1, len(passage.visual), device=visual.device)
        norms = keys(passage.before, passage.entered, passage.position_embeddings).float().abs().sum(dim=(0, 2))
        norms = norms.to(visual.device)
        pivots = [
            rows[norms[rows].argsort(descending=True, stable=True)[:count]]
            for rows, count in ((visual, self.pivot_image_token), (text, self.pivot_text_token))
        ]
        states = torch.nn.functional.normalize(passage.norm(passage.hidden).float(), dim=1).to(visual.device)
        kept = torch.isin(visual, pivots[0])
        for pivot in torch.cat(pivots).tolist():
            free = (~kept).nonzero().squeeze(1)
            alike = states[visual[free]] @ states[pivot]
            kept[free[alike.argsort(stable=True)[: self._each(share, passage.prompt.n_visual)]]] = True
        return Cut(kept.nonzero().squeeze(1))

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        """Keys of every row, and the products of each pivot with the visual tokens still free."""
        visual, each = min(self.pivot_image_token, prompt.visual), self._each(keep, prompt.visual)
        pivots = visual + min(self.pivot_text_token, prompt.instruction)
        free = sum(max(0, prompt.visual - visual - turn * each) for turn in range(pivots))
        keys = product(prompt.length, shape.decoder.hidden, shape.decoder.key)
        return keys + product(free, shape.decoder.hidden, 1)

    def _each(self, share: float, n_visual: int) -> int:
        """Tokens that one pivot takes."""
        return int(n_visual * share / (self.pivot_image_token + self.pivot_text_token))
