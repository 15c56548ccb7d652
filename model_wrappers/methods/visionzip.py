"""VisionZip: Longer is Better but Not Necessary in Vision Language Models (arXiv 2412.04467;
JIA-Lab-research/VisionZip, visionzip/clip_encoder.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Merger
from model_wrappers.rounding import budget
from model_wrappers.shape import product

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class VisionZip(Merger):
    """Dominant tokens by attention in the vision encoder's layer before the last; the others merged into contextual
    ones.

    Of the k tokens of an image or frame `contextual` are contextual (30 of 192, 20 of 128 and 10 of 64 in the paper),
    the others dominant. Of the remaining ones every s-th is a target; each that is none goes to the target of the most
    similar key (cosine of keys, mean over heads), and a target becomes itself plus the mean of what went to it: a sum,
    as in the official code. Exactly k tokens are left: each image and frame has its share of them.

    Substitutes. Without CLS (SigLIP, Qwen2-VL's ViT) a patch is ranked by the attention that it receives, mean over all
    patches that look at it, and CLS itself is not among the dominant; keys are those before RoPE. Where a visual token
    is made of several patches it has their mean, the way the features go. The official code merges before the
    projector, which takes other shapes here (2 x 2 patches a token, tiles); these are merged behind it. Tokens stay in
    the order of their places, a contextual one in its target's, where the official code puts these behind the dominant.
    LLaVA-OneVision's newlines are no patches: they are kept only where k is more than all patches. The language model
    of the official code sees a shorter sequence, so "renumber" is the default.
    """

    name: ClassVar[str] = "visionzip"
    needs_vision: ClassVar[bool] = True
    positions: Literal["own", "renumber"] = field(default="renumber", kw_only=True)
    contextual: float = 0.15625

    def __post_init__(self) -> None:
        if not 0 <= self.contextual < 1:
            raise UserError(
                f"visionzip: contextual={self.contextual}, but it is a share of the tokens: 0 or more, below 1"
            )

    def merge(self, model: Any, prompt: VisualPrompt, k: int) -> tuple[Tensor, Tensor]:
        import torch

        from model_wrappers.methods.frames import apportion, videos
        from model_wrappers.vision import view

        seen = view(prompt)
        attention, keys = seen.attention, seen.keys
        features = prompt.inputs_embeds[prompt.visual_rows]
        merged, patch = features.clone(), ~attention.isnan()
        frames = [frame[patch[frame]] for video in videos(model, prompt) for frame in video]
        shares = apportion(min(k, int(patch.sum())), [len(frame) for frame in frames])
        kept = []
        for frame, share in zip(frames, shares, strict=True):
            dominant, targets, others, goes_to = self._split(attention[frame], keys[frame], share)
            kept += [frame[dominant], frame[targets]]
            own, given = features[frame[targets]].float(), features[frame[others]].float()
            sums = torch.zeros_like(own).index_add(0, goes_to, given)
            members = goes_to.bincount(minlength=len(targets)).clamp(min=1)[:, None]
            merged[frame[targets]] = (own + sums / members).to(merged)
        kept.append((~patch).nonzero().squeeze(1)[: max(0, k - int(patch.sum()))])
        places = torch.cat(kept).sort().values
        return merged[places], places

    def _split(self, attention: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Among a frame's tokens: the dominant ones, the targets, the others, and the target each of these goes to."""
        import torch

        from model_wrappers.selection import top

        contextual = self._contextual(k)
        dominant = top(attention, k - contextual)
        left = torch.ones_like(attention, dtype=torch.bool)
        left[dominant] = False
        rest = left.nonzero().squeeze(1)
        if not contextual:
            return dominant, rest[:0], rest[:0], rest[:0]
        is_target = torch.zeros_like(rest, dtype=torch.bool)
        is_target[torch.arange(contextual, device=rest.device) * (len(rest) // contextual)] = True
        targets, others = rest[is_target], rest[~is_target]
        unit = torch.nn.functional.normalize(keys, dim=-1)
        return dominant, targets, others, (unit[others] @ unit[targets].T).argmax(dim=1)

    def _contextual(self, k: int) -> int:
        """Of k tokens of one image or frame those that are contextual."""
        return int(self.contextual * k + 0.5)

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float | None:
        """The attention and keys of one layer of the vision encoder, and the cosines of keys that merge.

        An image's newlines, which LLaVA-OneVision alone has and which are not merged, are counted as if they were.
        """
        from model_wrappers.methods.frames import apportion

        if (tower := shape.tower) is None:
            return None
        frames = tower.frames(prompt.visual, prompt.pictures)
        sizes = [prompt.visual // frames] * frames
        total = tower.looked_into(prompt.visual, prompt.pictures)
        for size, share in zip(sizes, apportion(min(budget(keep, prompt.visual), sum(sizes)), sizes), strict=True):
            total += product(size - share, tower.hidden / tower.heads, self._contextual(share))
        return total
