"""VisionZip, FastVID and PruneVid written down slowly from papers and official code: loops, one token at a time.

Each takes the tokens' features (a list of vectors), the frames (lists of token numbers) and what else the method looks
at, and returns {token in whose place something is left: its embedding}.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from torch import Tensor

Left = dict[int, Tensor]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def mean(vectors: list[Tensor]) -> Tensor:
    return sum(vectors[1:], vectors[0]) / len(vectors)


def visionzip(
    features: list[Tensor], frames: list[list[int]], attention: list[float], keys: list[Tensor], k: int
) -> Left:
    left: Left = {}
    patches = sum(len(frame) for frame in frames)
    seen = given = 0
    for frame in frames:
        seen += len(frame)
        budget = math.floor(k * seen / patches + 0.5) - given
        given += budget
        n_contextual = math.floor(budget * 30 / 192 + 0.5)
        ranked = sorted(frame, key=lambda token: (-attention[token], token))
        dominant = ranked[: budget - n_contextual]
        for token in dominant:
            left[token] = features[token]
        rest = [token for token in frame if token not in dominant]
        targets = [rest[place * (len(rest) // n_contextual)] for place in range(n_contextual)]
        members: dict[int, list[Tensor]] = {target: [] for target in targets}
        for token in rest:
            if targets and token not in targets:
                members[max(targets, key=lambda target: cosine(keys[token], keys[target]))].append(features[token])
        for target in targets:
            left[target] = features[target] + (mean(members[target]) if members[target] else 0)
    return left


def distances(points: list[Tensor]) -> list[list[float]]:
    return [[float((a - b).norm()) / math.sqrt(len(a)) for b in points] for a in points]


def peak_scores(points: list[Tensor], neighbours: int) -> list[float]:
    apart = distances(points)
    density = []
    for row in apart:
        near = sorted(row)[:neighbours]
        density.append(math.exp(-sum(each**2 for each in near) / len(near)))
    scores = []
    for one in range(len(points)):
        denser = [other for other in range(len(points)) if (-density[other], other) < (-density[one], one)]
        to_denser = [apart[one][other] for other in denser]
        scores.append(density[one] * (min(to_denser) if denser else max(map(max, apart))))
    return scores


def best(scores: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count])


def fastvid(features: list[Tensor], frames: list[list[int]], attention: list[float], share: tuple[int, int]) -> Left:
    """`share`: numerator and denominator of the retention ratio."""
    pooled = [mean([features[token] for token in frame]) for frame in frames]
    alike = [cosine(a, b) for a, b in zip(pooled, pooled[1:], strict=False)]
    lowest = sorted(range(len(alike)), key=lambda place: alike[place])[:7]
    segments: list[list[list[int]]] = [[]]
    for place, frame in enumerate(frames):
        segments[-1].append(frame)
        if place < len(alike) and (place in lowest or alike[place] < 0.9):
            segments.append([])
    left: Left = {}
    for segment in segments:
        retained = max(1, len(segment[0]) * share[0] // share[1])
        context = int(retained * 0.4)
        rest = []
        for frame in segment:
            ranked = sorted(frame, key=lambda token: (-attention[token], token))
            for token in ranked[: retained - context]:
                left[token] = features[token]
            rest.append(sorted(ranked[retained - context :]))
        anchors = [place for place in range(len(segment)) if (len(segment) - 1 - place) % 4 == 0]
        count = min(context * len(segment) // len(anchors), len(rest[0]))
        for anchor in anchors:
            scores = peak_scores([features[token] for token in rest[anchor]], 4)
            peaks = [rest[anchor][place] for place in best(scores, count)]
            members: dict[int, list[Tensor]] = {peak: [] for peak in peaks}
            for token in [token for frame in rest for token in frame] if peaks else []:
                members[max(peaks, key=lambda peak: cosine(features[token], features[peak]))].append(features[token])
            for peak in peaks:
                weight = max(1 / (len(members[peak]) + 1), 0.6)
                left[peak] = weight * features[peak] + (1 - weight) * mean(members[peak])
    return left


def clusters(points: list[Tensor], count: int) -> dict[int, list[int]]:
    """By centre the points of its cluster."""
    centres = best(peak_scores(points, 7), count)
    found: dict[int, list[int]] = {centre: [centre] for centre in centres}
    apart = distances(points)
    for point in range(len(points)):
        if point not in centres:
            found[min(centres, key=lambda centre: apart[point][centre])].append(point)
    return found


def contiguous(labels: list[int]) -> list[int]:
    """PruneVid's `refine_clusters`, frame by frame: whose stretch is not among the longest of its cluster, or is a
    single frame, has no cluster; each stretch of such frames, from the first on, joins the longer one beside it.
    """

    def stretch(of: list[int | None], place: int) -> range:
        start = stop = place
        while start > 0 and of[start - 1] == of[place]:
            start -= 1
        while stop < len(of) and of[stop] == of[place]:
            stop += 1
        return range(start, stop)

    given: list[int | None] = list(labels)
    found: list[int | None] = []
    for place, label in enumerate(labels):
        longest = max(len(stretch(given, other)) for other in range(len(labels)) if labels[other] == label)
        found.append(label if len(stretch(given, place)) == longest > 1 else None)
    for place in range(len(labels)):
        if found[place] is None:
            lost = stretch(found, place)
            left = stretch(found, lost.start - 1) if lost.start else range(0)
            right = stretch(found, lost.stop) if lost.stop < len(found) else range(0)
            joined = left if len(left) >= len(right) else right
            for frame in lost:
                found[frame] = found[joined.start] if joined else 0
    return [label for label in found if label is not None]


def prunevid_groups(features: list[Tensor], frames: list[list[int]], scenes: list[int]) -> list[Left]:
    """`scenes`: frames of each. Of each scene the static group, then the dynamic one of each frame."""
    found: list[Left] = []
    start = 0
    for length in scenes:
        scene = frames[start : start + length]
        start += length
        static = []
        for column in zip(*scene, strict=True):
            pairs = [cosine(features[a], features[b]) for a in column for b in column if a < b]
            if pairs and sum(pairs) / len(pairs) > 0.8:
                static.append(column)
        found.append({column[0]: mean([features[token] for token in column]) for column in static})
        still = {token for column in static for token in column}
        found += [{token: features[token] for token in frame if token not in still} for frame in scene]
    return [group for group in found if group]


def fitting(sizes: list[int], limit: int, least: int = 0, lowest: int = 0) -> list[int]:
    """How many of each group are left at the largest share that leaves at most `limit`; small groups stay whole."""
    for share in sorted({Fraction(part, size) for size in sizes for part in range(1, size + 1)}, reverse=True):
        counts = [size if size <= least else max(lowest, int(size * share)) for size in sizes]
        if sum(counts) <= limit:
            return counts
    return [size if size <= least else lowest for size in sizes]


def prunevid(groups: list[Left], counts: list[int]) -> list[Left]:
    """What clustering each group to so many leaves of it."""
    found: list[Left] = []
    for group, count in zip(groups, counts, strict=True):
        tokens = list(group)
        found.append({})
        for centre, members in clusters(list(group.values()), count).items() if count < len(group) else ():
            found[-1][tokens[centre]] = mean([group[tokens[member]] for member in members])
        found[-1] = found[-1] or group
    return found


def prunevid_looks(layer: Any, entered: Tensor, text: list[int]) -> list[float]:
    """Of each row of `entered` [L, d] the highest attention that a head of a `text` row pays it, all without places."""
    size = layer.self_attn.head_dim
    normed = layer.input_layernorm(entered)
    queries, keys = layer.self_attn.q_proj(normed), layer.self_attn.k_proj(normed)
    heads, shared = queries.shape[1] // size, queries.shape[1] // keys.shape[1]
    highest = [0.0] * len(entered)
    for row in text:
        for head in range(heads):
            query = queries[row, head * size : (head + 1) * size]
            key = keys[:, head // shared * size : (head // shared + 1) * size]
            for place, share in enumerate((key @ query / math.sqrt(size)).softmax(dim=0).tolist()):
                highest[place] = max(highest[place], share)
    return highest
