"""PruneVid: Visual Token Pruning for Efficient Video Large Language Models (arXiv 2412.16117; Visual-AI/PruneVid,
models/pllava/modeling_pllava.py; its second stage in models/pllava/elastic_cache.py and llama.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Merger
from model_wrappers.rounding import budget
from model_wrappers.shape import product

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


class Group(NamedTuple):
    """Tokens that are clustered together: the static ones of a scene, or the dynamic ones of one frame."""

    features: Tensor
    """[n, d] float32; of static tokens the mean over the scene's frames."""
    places: Tensor
    """[n] long: their visual tokens; of static ones those of the scene's first frame."""


@dataclass(frozen=True)
class PruneVID(Merger):
    """Tokens that stay alike through a scene become their mean over time; then tokens near each other are clustered.

    Frames are clustered by DPC-KNN (7 neighbours) on the mean of their tokens into `temporal_segment_ratio` * T
    clusters, which are made contiguous: only a cluster's longest run stays, the other frames go to the longer of the
    neighbouring runs. Within a scene the tokens of one place are static where the mean cosine of all pairs of frames is
    above `tau`. The static tokens of a scene and the dynamic ones of each frame are then each clustered by DPC-KNN, to
    a share c of their number, where there are more than `least`; a cluster becomes its mean and stands in its centre's
    place. The official c is 0.5; here c is the largest for which not more than k tokens are left in all. No c leaves
    fewer than the static and dynamic groups of `least` or fewer tokens, and one of each other group: where k is less,
    that is what is left. LLaVA-OneVision's newline behind the video is kept. In a prompt with a video an image counts
    as a video of one frame, all of it dynamic. Fields have the official names; c is cluster_ratio there, and `least` a
    constant.

    Not done: the second stage. Behind LLM layer 10 (counted from 0) it keeps int(0.4 n) of the n tokens of each scene's
    static group and of each frame's dynamic one, by the attention of the text behind the video in that layer, worked
    out without RoPE and without a causal mask, its highest over heads and text rows; and it cuts the KV cache of layers
    0 to 10 to the same tokens. A merger cuts at the LLM's input alone.

    Substitutes. The noise added to densities is left out (`density_peaks`). Tokens stay in the order of their places,
    where the official code puts the static ones of a scene before its dynamic ones. Where there are fewer frames or
    tokens than neighbours, or fewer frames than 1 / `temporal_segment_ratio`, all are neighbours and the video is one
    scene (there the official code stops). A frame of Qwen2-VL is a step of time.
    """

    name: ClassVar[str] = "prunevid"
    media: ClassVar[frozenset[str]] = frozenset({"video"})
    positions: Literal["own", "renumber"] = field(default="renumber", kw_only=True)
    counted_as: ClassVar[str] = "no token is static (the most there can be)"
    temporal_segment_ratio: float = 0.25
    tau: float = 0.8
    least: int = 14

    def __post_init__(self) -> None:
        if not 0 < self.temporal_segment_ratio <= 1:
            raise UserError(
                f"prunevid: temporal_segment_ratio={self.temporal_segment_ratio}, but it is a share of the frames: "
                "above 0, at most 1"
            )
        if self.least < 1:
            raise UserError(f"prunevid: least={self.least}, but a group to be clustered has more than 1 token")

    def merge(self, model: Any, prompt: VisualPrompt, k: int) -> tuple[Tensor, Tensor]:
        import torch

        from model_wrappers.methods.frames import cluster, videos

        features = prompt.inputs_embeds[prompt.visual_rows]
        left = torch.ones(prompt.n_visual, dtype=torch.bool, device=features.device)
        groups: list[Group] = []
        for frames in videos(model, prompt):
            left[frames] = False
            for scene in frames.split(self.scene_lengths(features[frames].float().mean(dim=1))):
                groups += self._groups(scene, features[scene].float())
        counts = self.shares([len(group.places) for group in groups], k - int(left.sum()))
        merged, kept = features.clone(), [left.nonzero().squeeze(1)]
        for group, count in zip(groups, counts, strict=True):
            if count == len(group.places):
                kept.append(group.places)
                merged[group.places] = group.features.to(merged)
                continue
            centres, member = cluster(group.features, count, 7)
            kept.append(group.places[centres])
            sums = torch.zeros_like(group.features[:count]).index_add(0, member, group.features)
            merged[kept[-1]] = (sums / member.bincount(minlength=count)[:, None]).to(merged)
        places = torch.cat(kept).sort().values
        return merged[places], places

    def scene_lengths(self, frames: Tensor) -> list[int]:
        """How many frames each scene has, from features [T, C] of the frames."""
        from model_wrappers.methods.frames import cluster

        _, member = cluster(frames, max(1, int(len(frames) * self.temporal_segment_ratio)), 7)
        return [stop - start for _, start, stop in _runs(contiguous(member.tolist()))]

    def _groups(self, scene: Tensor, features: Tensor) -> list[Group]:
        """Of a scene's tokens [W, n], features [W, n, d]: the static group, then the dynamic one of each frame."""
        import torch

        length = len(scene)
        static = torch.zeros_like(scene[0], dtype=torch.bool)
        if length > 1:
            unit = torch.nn.functional.normalize(features, dim=-1)
            # The sum of all pairs' cosines is the square of the sum; each frame's with itself is 1.
            static = (unit.sum(dim=0).square().sum(dim=-1) - length) / (length * (length - 1)) > self.tau
        groups = [Group(features[:, static].mean(dim=0), scene[0, static])]
        groups += [Group(own[~static], places[~static]) for own, places in zip(features, scene, strict=True)]
        return [group for group in groups if len(group.places)]

    def shares(self, sizes: list[int], k: int) -> list[int]:
        """To how many tokens each group is clustered: floor(size * c) for the largest c that leaves at most k in all.

        At least one, and a group of at most `least` tokens stays whole.
        """
        large = {size for size in sizes if size > self.least}
        shares = sorted({(part / size, part, size) for size in large for part in range(1, size + 1)})

        def at(place: int) -> list[int]:
            _, part, whole = shares[place] if place >= 0 else (0, 0, 1)
            return [max(1, size * part // whole) if size > self.least else size for size in sizes]

        low, high = -1, len(shares)  # the largest share that is few enough lies in low .. high - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sum(at(middle)) <= k else (low, middle)
        return at(low)

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float | None:
        """The distances of the frames, and of the tokens of each frame: those of a video without static tokens, which
        are clustered once a scene and so cost less.
        """
        if (tower := shape.tower) is None:
            return None
        n_frames, width = tower.frames(prompt.visual, prompt.pictures), shape.decoder.hidden
        n = prompt.visual // n_frames
        (share,) = set(self.shares([n] * n_frames, budget(keep, prompt.visual) - (prompt.visual - n * n_frames)))
        clustered = n_frames * product(n, width, n) if share < n else 0.0
        return product(n_frames, width, n_frames) + clustered


def _runs(labels: list[int]) -> list[tuple[int, int, int]]:
    """(label, start, stop) of each run of equal labels."""
    starts = [place for place in range(len(labels)) if not place or labels[place] != labels[place - 1]]
    return [(labels[start], start, stop) for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True)]


def contiguous(labels: list[int]) -> list[int]:
    """Frames' clusters so that each is one stretch, as the official `refine_clusters` has it.

    Of each cluster the longest runs stay (all of them, if several are longest), none if that is one frame; a stretch of
    other frames joins the longer of the runs beside it, of equal ones the left, or 0 where there is none.
    """
    open_ = -1
    runs = _runs(labels)
    longest: dict[int, int] = {}
    for label, start, stop in runs:
        longest[label] = max(longest.get(label, 0), stop - start)
    found = list(labels)
    for label, start, stop in runs:
        if longest[label] == 1 or stop - start < longest[label]:
            found[start:stop] = [open_] * (stop - start)
    while open_ in found:
        runs = _runs(found)
        place = next(number for number, run in enumerate(runs) if run[0] == open_)
        beside = [runs[number] for number in (place - 1, place + 1) if 0 <= number < len(runs)]
        joined = max(beside, key=lambda run: run[2] - run[1])[0] if beside else 0  # the first of equals is the left
        _, start, stop = runs[place]
        found[start:stop] = [joined] * (stop - start)
    return found
