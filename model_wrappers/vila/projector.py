"""VILA1.5's projector `mlp_downsample`: four neighbouring patches become one visual token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_wrappers.vila.config import VilaConfig


def space_to_depth(patches: Tensor, order: str) -> Tensor:
    """Joins each square of 2 x 2 patches into one vector.

    Args:
        patches: [N, g * g, C] features of a g x g grid, row by row. Where g is odd, one row of zeros is put below the
            grid and one column of zeros to its right.
        order: of the result: "column" (cell t is row t % h, column t // h, of the h x h cells) or "row".

    Returns:
        [N, h * h, 4 C] with h = ceil(g / 2). Channels: upper left, upper right, lower left, lower right patch.
    """
    n, count, channels = patches.shape
    side = int(count**0.5)
    grid = patches.reshape(n, side, side, channels)
    grid = nn.functional.pad(grid, (0, 0, 0, side % 2, 0, side % 2))
    cells = grid.shape[1] // 2
    split = grid.reshape(n, cells, 2, cells, 2, channels)  # row, its upper or lower, column, its left or right
    split = split.permute(0, 3, 1, 2, 4, 5) if order == "column" else split.permute(0, 1, 3, 2, 4, 5)
    return split.reshape(n, cells * cells, 4 * channels)


class _DownSample(nn.Module):
    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order

    def forward(self, patches: Tensor) -> Tensor:
        return space_to_depth(patches, self.order)


class VilaProjector(nn.Module):
    """Features of the tower [N, g * g, C] -> visual tokens [N, ceil(g / 2) ** 2, d].

    The modules are numbered as in the published weights.
    """

    def __init__(self, config: VilaConfig) -> None:
        super().__init__()
        width, hidden = 4 * config.vision_config.hidden_size, config.text_config.hidden_size
        self.layers = nn.Sequential(
            _DownSample(config.token_order),
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(patches)


def token_places(config: VilaConfig) -> Tensor:
    """Where in its image each visual token looks, in the tokens' order.

    Returns:
        [n, 4] float32 (y0, y1, x0, x1), fractions of the image; y goes down. A token of the last row or column of an
        odd grid shows one patch there, not two, and pixels right of and below the last whole patch show nowhere.
    """
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    edges = torch.arange(config.n_cells + 1, dtype=torch.float32) * 2
    edges = edges.clamp(max=config.n_patches) * patch / size
    first, second = torch.cartesian_prod(torch.arange(config.n_cells), torch.arange(config.n_cells)).unbind(1)
    row, column = (second, first) if config.token_order == "column" else (first, second)
    return torch.stack((edges[row], edges[row + 1], edges[column], edges[column + 1]), dim=1)
