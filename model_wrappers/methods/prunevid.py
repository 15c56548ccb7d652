"""PruneVid: Visual Token Pruning for Efficient Video Large Language Models (arXiv 2412.16117; Visual-AI/PruneVid,
models/pllava/modeling_pllava.py; its second stage in models/pllava/llama.py and elastic_cache.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Cut, LayerPruner, Merger, Passage
from model_wrappers.rounding import budget
from model_wrappers.shape import product

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape

OF_LAYERS, IN_FULL = 32, 11
"""The official code scores in layer 10 of 32, counted from 0: layers 0 to 10 work on all that the merge left."""


class Group(NamedTuple):
    """Tokens that are clustered together: the static ones of a scene, or the dynamic ones of one frame."""

    features: Tensor
    """[n, d] float32; of static tokens the mean over the scene's frames."""
    places: Tensor
    """[n] long: their visual tokens; of static ones those of the scene's first frame."""


@dataclass(frozen=True)
class PruneVID(Merger, LayerPruner):
    """Tokens that stay alike through a scene become their mean over time; tokens near each other are clustered; then, a
    third into the language model, each group keeps those that the text looks at.

    The merge. Frames are clustered by DPC-KNN (7 neighbours) on the mean of their tokens into `temporal_segment_ratio`
    * T clusters, which are made contiguous: only a cluster's longest run stays, the other frames go to the longer of
    the neighbouring runs. Within a scene the tokens of one place are static where the mean cosine of all pairs of
    frames is above `tau`. The static tokens of a scene and the dynamic ones of each frame are then each clustered by
    DPC-KNN, to a share c of their number, where there are more than `least`; a cluster becomes its mean and stands in
    its centre's place. In a prompt with a video an image counts as a video of one frame, all of it dynamic.

    The second stage. Behind 11/32 of the layers each of these groups keeps int(a n) of its n tokens, those with the
    highest attention of the text behind the video in the last layer so far: worked out without RoPE and without causal
    mask, post-softmax, the highest over heads and text rows. The KV caches of the layers before are cut to the same
    tokens, so those layers work on more than they hold. The numbering of the merged prompt stays, and decoding goes on
    after the merged length, as in the official code: `positions` says how the merge numbers.

    `keep` is what the second stage leaves, k tokens in all, and the merge leaves k / `alpha`, or all where that is
    more. The official setting, c = 0.5 and a = 0.4, is keep = 0.2; its mean over the layers is 30.3%. c and a are the
    largest for which no more are left; so a is `alpha` or above, and no token is cut where the merge has left k or
    fewer. No c leaves fewer than the groups of `least` or fewer tokens, and one of each other group; a group may lose
    all to a, but one token of all stays. With alpha=1 the merge does it all. Fields have the official names; c is
    cluster_ratio there, `least` a constant and the layer a setting.

    Substitutes. Query heads share a key head here. LLaVA-OneVision's newline behind the video is in no group and kept.
    The noise added to densities is left out (`density_peaks`). Tokens stay in the order of their places, where the
    official code puts the static ones of a scene before its dynamic ones. Where there are fewer frames or
    tokens than neighbours, or fewer frames than 1 / `temporal_segment_ratio`, all are neighbours and the video is one
    scene (there the official code stops). A frame of Qwen2-VL is a step of time.
    """

    name: ClassVar[str] = "prunevid"
    media: ClassVar[frozenset[str]] = frozenset({"video"})
    positions: Literal["own", "renumber"] = field(default="renumber", kw_only=True)
    trims: ClassVar[bool] = True
    counted_as: ClassVar[str] = "no token is static (the most there can be)"
    alpha: float = 0.4
    temporal_segment_ratio: float = 0.25
    tau: float = 0.8
    least: int = 14

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise UserError(
                f"prunevid: alpha={self.alpha}, but it is the share of the merged tokens that the second stage keeps: "
                "above 0, at most 1"
            )
        if not 0 < self.temporal_segment_ratio <= 1:
            raise UserError(
                f"prunevid: temporal_segment_ratio={self.temporal_segment_ratio}, but it is a share of the frames: "
                "above 0, at most 1"
            )
        if self.least < 1:
            raise UserError(f"prunevid: least={self.least}, but a group to be clustered has more than 1 token")

    def check(self, model: Any) -> None:
        from model_wrappers.anatomy import n_layers

        if self.alpha < 1 and n_layers(model) < 2:
            raise UserError("prunevid: the second stage cuts between layers, but the model has one: alpha=1")

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        return {max(1, int(n_layers * IN_FULL / OF_LAYERS + 0.5)): keep} if self.alpha < 1 else {}

    def counts(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        merged = self._merged(budget(keep, n_visual), n_visual)
        return [min(merged, count) for count in super().counts(n_layers, keep, n_visual)]

    def _merged(self, k: int, n_visual: int) -> int:
        """What the merge may leave."""
        return min(n_visual, int(k / self.alpha + 0.5))

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
        sizes = [len(group.places) for group in groups]
        counts = shares(sizes, self._merged(k, prompt.n_visual) - int(left.sum()), self.least, at_least=1)
        merged, kept = features.clone(), [left.nonzero().squeeze(1)]
        group_of = torch.full_like(prompt.visual_rows, NO_GROUP)
        for number, (group, count) in enumerate(zip(groups, counts, strict=True)):
            if count == len(group.places):
                kept.append(group.places)
                merged[group.places] = group.features.to(merged)
            else:
                centres, member = cluster(group.features, count, 7)
                kept.append(group.places[centres])
                sums = torch.zeros_like(group.features[:count]).index_add(0, member, group.features)
                merged[kept[-1]] = (sums / member.bincount(minlength=count)[:, None]).to(merged)
            group_of[kept[-1]] = number
        prompt.cache[self, k] = group_of
        places = torch.cat(kept).sort().values
        return merged[places], places

    def cut(self, passage: Passage, share: float) -> Cut:
        import torch

        from model_wrappers.relevance.attention import placeless_attention_of

        prompt, n = passage.prompt, len(passage.tokens)
        k = budget(share, prompt.n_visual)
        if n <= k:
            return Cut(torch.arange(n))
        group_of = prompt.cache[self, k][passage.tokens]
        length = len(passage.visual)
        # The text behind the visual tokens ends the rows of every layer; without any the last row stands for it.
        text = torch.arange(length - max(1, int(prompt.instruction.sum())), length, device=passage.entered.device)
        looks = placeless_attention_of(passage.before, passage.entered, text)
        order = passage.ranked(looks.amax(dim=(0, 1))[passage.visual.to(looks.device)]).to(group_of.device)
        kept = [(group_of == NO_GROUP).nonzero().squeeze(1)]
        sizes = group_of[group_of != NO_GROUP].bincount().tolist()
        for number, count in enumerate(shares(sizes, k - len(kept[0]))):
            kept.append(order[group_of[order] == number][:count])
        found = torch.cat(kept).sort().values
        return Cut(found if len(found) else order[:1])

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

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float | None:
        """The distances of the frames, and of the tokens of each frame: those of a video without static tokens, which
        are clustered once a scene and so cost less. Then the attention of the text to what the merge left.
        """
        if (tower := shape.tower) is None:
            return None
        n_frames, decoder = tower.frames(prompt.visual, prompt.pictures), shape.decoder
        n, k = prompt.visual // n_frames, budget(keep, prompt.visual)
        in_none = prompt.visual - n * n_frames
        (count,) = set(shares([n] * n_frames, self._merged(k, prompt.visual) - in_none, self.least, at_least=1))
        total = product(n_frames, decoder.hidden, n_frames)
        if count < n:
            total += n_frames * product(n, decoder.hidden, n)
        merged = n_frames * count + in_none
        if self.plan(decoder.layers, keep) and merged > k:
            total += decoder.attention_rows(max(1, prompt.instruction), merged + prompt.text)
        return total


NO_GROUP = -1
"""Of a visual token that belongs to no group."""


def shares(sizes: list[int], k: int, least: int = 0, at_least: int = 0) -> list[int]:
    """How many of each group are left: floor(size * share) for the largest share that leaves at most k in all.

    Not fewer than `at_least` of each, and a group of `least` or fewer tokens stays whole.
    """
    large = {size for size in sizes if size > least}
    steps = sorted({(part / size, part, size) for size in large for part in range(1, size + 1)})

    def at(place: int) -> list[int]:
        _, part, whole = steps[place] if place >= 0 else (0, 0, 1)
        return [max(at_least, size * part // whole) if size > least else size for size in sizes]

    low, high = -1, len(steps)  # the largest share that is few enough lies in low .. high - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(at(middle)) <= k else (low, middle)
    return at(low)


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
