"""The frames of a prompt's videos, and the clustering that methods of video share. No method itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt


def videos(model: Any, prompt: VisualPrompt) -> list[Tensor]:
    """Of each video [T, n] long: the visual tokens of its frames, in their order; an image is a video of one frame.

    Qwen2-VL's frame is a step of time (two frames). LLaVA-OneVision's newline behind a video belongs to none; the
    newlines inside an image are among its tokens. All images of a VILA prompt are the frames of one video.
    """
    import torch

    from model_wrappers.anatomy import tokens_a_frame, visual_token_ids

    places = torch.arange(prompt.n_visual, device=prompt.visual.device)
    kinds = visual_token_ids(model)
    if len(kinds) == 1:
        return [places.view(-1, tokens_a_frame(model))]
    found, start = [], 0
    for time, height, width in prompt.grids:
        count = time * height * width
        run = places[start : start + count]
        if int(prompt.input_ids[prompt.visual_rows[start]]) != kinds[1]:
            found.append(run[None])
        elif prompt.position_ids.shape[0] == 3:
            found.append(run.view(time, -1))
        else:
            found.append(run[:-1].view(-1, tokens_a_frame(model)))
        start += count
    return found


def apportion(k: int, sizes: list[int]) -> list[int]:
    """k split as evenly as whole numbers go over parts of these sizes: up to each part its share, rounded."""
    total, before, shares, done = sum(sizes), 0, [], 0
    for size in sizes:
        before += size
        share = (2 * k * before + total) // (2 * total) - done
        shares.append(share)
        done += share
    return shares


def density_peaks(features: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """DPC-KNN (Du et al. 2016), as PruneVid's and FastVID's official code have it.

    Density exp(-mean of the squared distances to the nearest `neighbours`, the point itself among them); score density
    times distance to the nearest denser point. The official code adds a little noise to the densities, so that of equal
    ones either may be the denser; here it is the one that comes first.

    Args:
        features: [B, n, C], B sets of points.

    Returns:
        Scores [B, n] and distances [B, n, n], divided by sqrt(C), float32.
    """
    import torch

    points = features.float()
    # Without the matrix product that cdist takes for many points: equal points are then at distance 0.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[-1] ** 0.5
    nearest = distances.topk(min(neighbours, points.shape[1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    place = torch.arange(points.shape[1], device=points.device)
    other, own = density[:, None, :], density[:, :, None]
    denser = (other > own) | ((other == own) & (place[None, :] < place[:, None]))
    farthest = distances.amax(dim=(1, 2), keepdim=True)
    return torch.where(denser, distances, farthest).amin(dim=-1) * density, distances


def cluster(features: Tensor, count: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """[n, C] into `count` clusters: their centres [count] long, sorted, and each point's cluster [n] long.

    Centres are the highest scores of `density_peaks`; each other point goes to the nearest centre.
    """
    import torch

    from model_wrappers.selection import top

    scores, distances = (found[0] for found in density_peaks(features[None], neighbours))
    centres = top(scores, count)
    member = distances[centres].argmin(dim=0)
    member[centres] = torch.arange(count, device=member.device)
    return centres, member
