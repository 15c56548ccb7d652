"""SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference (arXiv 2410.04417;
Gumpest/SparseVLMs, llava/model/language_model/modelling_sparse_llama.py, score.py, utils.py; version 1, not "+")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Cut, LayerPruner, Passage
from model_wrappers.rounding import budget
from model_wrappers.shape import product

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.shape import PromptSize, Shape

OF_LAYERS, CUTS = 32, (3, 7, 16)
"""In the official code layers 2, 6 and 15 of 32 are scored and what they give is cut."""
OF_TOKENS, COUNTS = 576, ((0, 0, 0), (66, 30, 17), (303, 110, 36), (300, 200, 110), (576, 576, 576))
"""Its counts after the three cuts for 64, 128 and 192 tokens of 576, between nothing and all."""


@dataclass(frozen=True)
class SparseVLM(LayerPruner):
    """Attention of the text that looks most at the image; a part of what is dropped comes back as cluster means.

    Raters are the text tokens behind the last visual one whose embeddings are more like the visual tokens' than the
    mean: softmax over the text of the dot products at the LLM input, averaged over the visual tokens. The score is the
    raters' attention in the layer before the cut, post-softmax, mean over heads and raters. Of d dropped tokens the
    int(0.3 d) + 1 = m best are clustered (DPC-KNN on the hidden states behind that layer), and the int(m / 10) + 1
    means stand behind the last visual token kept. At the next cut they are visual tokens as any other.

    `keep` is the share that the last cut keeps, before what comes back. The official counts are fixed numbers, not the
    paper's rank-adaptive ratio, so there is one plan for each of its three settings: its "192", "128" and "64" tokens
    are keep = 110/576, 36/576 and 17/576 here. Between them, nothing and all, the shares at the first two cuts are
    interpolated. Cuts are at 3/32, 7/32 and 16/32 of the layers. What is recorded are all visual tokens left, clusters
    included; of a cluster `Record.kept` has its centre, whose place it takes where positions are not counted anew
    ("renumber", as version 1 does, is the default).

    Where the official code differs: it is written for a key head a query head (here the heads of a group share one, and
    the mean is over query heads); it adds noise to densities (here the lower index wins a tie); it never meets a prompt
    where no text is above the mean or where none comes after the image (here all of it, or the last row, rates), nor
    one with several images (here one ranking over all of them, rated by the text behind the last).
    """

    name: ClassVar[str] = "sparsevlm"
    counted_as: ClassVar[str] = "all text behind the visual tokens rates (the most there can be)"
    positions: Literal["own", "renumber"] = field(default="renumber", kw_only=True)

    def check(self, model: Any) -> None:
        from model_wrappers.anatomy import n_layers

        if n_layers(model) <= len(CUTS):
            raise UserError(f"sparsevlm cuts {len(CUTS)} times, but the model has {n_layers(model)} layers")

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        tokens = keep * OF_TOKENS
        upper = next(number for number, counts in enumerate(COUNTS) if counts[-1] >= tokens)
        low, high = COUNTS[upper - 1], COUNTS[upper]
        way = (tokens - low[-1]) / (high[-1] - low[-1])
        plan: dict[int, float] = {}
        for number, cut in enumerate(CUTS):
            layer = max(max(plan, default=0) + 1, int(n_layers * cut / OF_LAYERS + 0.5))
            plan[layer] = (low[number] + way * (high[number] - low[number])) / OF_TOKENS
        return plan

    def left(self, share: float, n_visual: int, there: int) -> int:
        kept, _, means = self._counts(share, n_visual, there)
        return kept + means

    def cut(self, passage: Passage, share: float) -> Cut:
        from model_wrappers.relevance.attention import attention_of

        rows = _raters(passage)
        visual = passage.visual.nonzero().squeeze(1)
        attention = attention_of(passage.before, passage.entered, rows, passage.position_embeddings)
        order = attention.mean(dim=0)[visual].argsort(descending=True, stable=True)
        kept, returning, means = self._counts(share, passage.prompt.n_visual, len(visual))
        if not means:
            return Cut(order.sort().values)
        back = order[kept : kept + returning]
        centres, merged = cluster(passage.hidden[visual[back]], means)
        return Cut(order[:kept].sort().values, merged, back[centres])

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        """At each cut the products that tell raters, the raters' attention, and the distances of what comes back."""
        decoder, there, total = shape.decoder, prompt.visual, 0.0
        for share in self.plan(decoder.layers, keep).values():
            total += product(prompt.visual, decoder.hidden, prompt.instruction)
            total += decoder.attention_rows(max(1, prompt.instruction), there + prompt.text)
            kept, returning, means = self._counts(share, prompt.visual, there)
            total += product(returning, decoder.hidden, returning)
            there = kept + means
        return total

    def _counts(self, share: float, n_visual: int, there: int) -> tuple[int, int, int]:
        """Tokens kept, tokens that come back, and clusters that they come back as."""
        kept = min(budget(share, n_visual), there - 1)
        if kept < 1:
            return there, 0, 0
        returning = int((there - kept) * 0.3) + 1
        return kept, returning, int(returning / 10) + 1


def _raters(passage: Passage) -> Tensor:
    """[r] long: rows of the text tokens that rate."""
    import torch

    prompt, length = passage.prompt, len(passage.visual)
    embeds = prompt.inputs_embeds.float()
    text = prompt.instruction.nonzero().squeeze(1)
    if not len(text):
        return torch.tensor([length - 1], device=prompt.visual.device)
    like = (embeds[prompt.visual_rows] @ embeds[text].T).softmax(dim=1).mean(dim=0)
    chosen = like > like.mean()
    chosen = chosen if bool(chosen.any()) else torch.ones_like(chosen)
    # The text behind the visual tokens is never cut, so it ends the rows of every layer.
    return chosen.nonzero().squeeze(1) + length - len(text)


def cluster(tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """DPC-KNN: the centres [count] long of clusters of `tokens` [m, d], and the clusters' means [count, d].

    A token's density is that of its `count` nearest (itself included); centres are those that are both dense and far
    from any denser one; each other token goes to its nearest centre.
    """
    import torch

    values = tokens.float()
    distance = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist") / values.shape[1] ** 0.5
    density = (-(distance.topk(count, largest=False).values ** 2).mean(dim=1)).exp()
    denser = density[None, :] > density[:, None]
    apart = torch.where(denser, distance, distance.max()).min(dim=1).values
    centres = (apart * density).argsort(descending=True, stable=True)[:count]
    member = distance[centres].argmin(dim=0)
    member[centres] = torch.arange(count, device=tokens.device)
    sums = torch.zeros(count, values.shape[1], device=tokens.device).index_add_(0, member, values)
    size = torch.zeros(count, device=tokens.device).index_add_(0, member, torch.ones_like(density))
    return centres, (sums / (size + 1e-6)[:, None]).to(tokens.dtype)
