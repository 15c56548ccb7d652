"""FastVID: Dynamic Density Pruning for Fast Video Large Language Models (arXiv 2503.11187; LunarShen/FastVID,
fastvid_llavaonevision/LLaVA-NeXT, llava/model/language_model/modeling_qwen2.py and llava/model/llava_arch.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Merger
from model_wrappers.rounding import budget
from model_wrappers.shape import product

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class FastVID(Merger):
    """Segments of similar frames; salient tokens of each frame, and the rest of a segment merged into density peaks.

    A video is cut where the cosine of neighbouring frames is among the `c` - 1 lowest, or below `tau`. Of n tokens a
    frame m = floor(n * keep) are left, at least one: m - floor(m * `d`) salient ones, by attention, and the other share
    in each segment as peaks of DPC-KNN (4 neighbours) in every `p`-th frame, counted from the segment's last. Each
    token of a segment that is not salient goes to the most similar peak of each such frame, and a peak becomes w *
    itself + (1 - w) * the mean of its members (itself among them), w = max(1 / (members + 1), `beta`). So T * m tokens
    are left, or fewer where a segment's share does not divide, or where a frame has not as many tokens as peaks are
    asked of it (there the official code stops, as it does where there are not `c` frames). LLaVA-OneVision's newline
    behind the video is kept beyond that, as there. In a prompt with a video an image counts as a video of one frame.
    Positions stay ("own"), as there. The fields have the names that the paper gives them.

    Substitutes. Frame features and attention come from SigLIP's pooling head in the official code, which the families
    here do not have: a frame's feature is the mean of its tokens (as in the official code for Qwen2.5-VL), a token's
    attention that of `VisionView.attention` (that code: the softmax of the frame's mean query against its tokens' mean
    keys, in the last layer). The noise added to densities is left out (`density_peaks`), and tokens are compared and
    summed in float32, whatever the model computes in. A frame of Qwen2-VL is a step of time. The official code for
    Qwen2.5-VL differs further: similarity 0.84, shares counted a segment, frames that are above 0.95 alike within a
    segment left without tokens, peaks no members of their own. All families here follow the one for LLaVA-OneVision.
    """

    name: ClassVar[str] = "fastvid"
    media: ClassVar[frozenset[str]] = frozenset({"video"})
    needs_vision: ClassVar[bool] = True
    counted_as: ClassVar[str] = "the video has `c` segments of equal length"
    c: int = 8
    tau: float = 0.9
    d: float = 0.4
    p: int = 4
    beta: float = 0.6

    def __post_init__(self) -> None:
        for name in ("c", "p"):
            if getattr(self, name) < 1:
                raise UserError(f"fastvid: {name}={getattr(self, name)}, but it is a number of 1 or more")
        for name in ("d", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"fastvid: {name}={getattr(self, name)}, but it is a share from 0 to 1")

    def merge(self, model: Any, prompt: VisualPrompt, k: int) -> tuple[Tensor, Tensor]:
        import torch

        from model_wrappers.methods.frames import videos
        from model_wrappers.vision import view

        features = prompt.inputs_embeds[prompt.visual_rows]
        attention = view(prompt).attention.nan_to_num(-1.0)  # an image's newlines are the least salient
        left = torch.ones(prompt.n_visual, dtype=torch.bool, device=features.device)
        merged, kept, found = features.clone(), [], videos(model, prompt)
        in_frames = sum(frames.numel() for frames in found)
        for frames in found:
            left[frames] = False
            retained = _retained(frames.shape[1], k, in_frames)
            for segment in frames.split(self.lengths(features[frames].float().mean(dim=1))):
                kept.append(self._shorten(segment, features, attention, retained, merged))
        places = torch.cat((*kept, left.nonzero().squeeze(1))).sort().values
        return merged[places], places

    def lengths(self, frames: Tensor) -> list[int]:
        """How many frames each segment has, from features [T, C] of the frames."""
        import torch

        from model_wrappers.selection import top

        unit = torch.nn.functional.normalize(frames, dim=-1)
        cosine = (unit[:-1] * unit[1:]).sum(dim=-1)
        cut = cosine < self.tau
        cut[top(-cosine, min(self.c - 1, len(cosine)))] = True
        ends = [*cut.nonzero().squeeze(1).tolist(), len(frames) - 1]
        return [end - start for start, end in zip([-1, *ends], ends, strict=False)]

    def _shorten(self, segment: Tensor, features: Tensor, attention: Tensor, retained: int, merged: Tensor) -> Tensor:
        """The tokens left of a segment [T, n]; what its peaks become is written into `d`."""
        import torch

        from model_wrappers.methods.frames import density_peaks
        from model_wrappers.selection import top

        n_frames, n = segment.shape
        asked = int(retained * self.d)
        salient = torch.stack([top(attention[frame], retained - asked) for frame in segment])
        others = torch.ones_like(segment, dtype=torch.bool).scatter(1, salient, False)
        rest = segment[others].view(n_frames, -1)
        kept = [segment.gather(1, salient).flatten()]
        anchors = list(range((n_frames - 1) % self.p, n_frames, self.p))
        count = min(asked * n_frames // len(anchors), rest.shape[1])
        if count:
            scores, _ = density_peaks(features[rest[anchors]], 4)
            pool = features[rest.flatten()].float()
            unit = torch.nn.functional.normalize(pool, dim=-1)
            for anchor, score in zip(anchors, scores, strict=True):
                peaks = top(score, count) + anchor * rest.shape[1]
                goes_to = torch.nn.functional.one_hot((unit @ unit[peaks].T).argmax(dim=1), count).float()
                members = goes_to.sum(dim=0)[:, None]
                weight = (1 / (members + 1)).clamp(min=self.beta)
                mean = goes_to.T @ pool / members.clamp(min=1)
                kept.append(rest.flatten()[peaks])
                merged[kept[-1]] = (weight * pool[peaks] + (1 - weight) * mean).to(merged)
        return torch.cat(kept)

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float | None:
        """The attention of one layer of the vision encoder, the distances in each peaked frame, and the products by
        which a segment's tokens find their peaks and are summed to them. For a video of `c` segments of equal
        length: fewer or longer ones cost more.
        """
        from model_wrappers.methods.frames import apportion

        if (tower := shape.tower) is None:
            return None
        n_frames = tower.frames(prompt.visual, prompt.pictures)
        n, width = prompt.visual // n_frames, shape.decoder.hidden
        retained = _retained(n, budget(keep, prompt.visual), n * n_frames)
        asked = int(retained * self.d)
        rest = n - (retained - asked)
        total = tower.looked_into(prompt.visual, prompt.pictures)
        for length in apportion(n_frames, [1] * min(self.c, n_frames)):
            anchors = -(-length // self.p)
            count = min(asked * length // anchors, rest)
            if count:
                total += anchors * (product(rest, width, rest) + 2 * product(length * rest, width, count))
        return total


def _retained(n: int, k: int, in_frames: int) -> int:
    """Tokens left of a frame of n, where k of the `in_frames` tokens of all frames are asked for."""
    return max(1, min(n, n * k // in_frames))
