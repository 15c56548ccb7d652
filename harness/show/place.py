"""From visual tokens back to pixels, by the part of the input that each token shows (`VisualPrompt.extents`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class Canvas:
    """Pictures of one size, and which visual tokens show which of their pixels.

    A token shows a pixel where the pixel's centre lies in the token's extent; likewise a picture, which is an equal
    stretch of time. Several tokens may show one pixel: the tiles of an image and the whole of it.

    Args:
        extents: [N_v, 6] (t0, t1, y0, y1, x0, x1) in fractions of the whole; six NaN where a token shows no place.
        pictures: how many, in order of time.
        height, width: of each, in pixels.
    """

    def __init__(self, extents: Floats, pictures: int, height: int, width: int) -> None:
        self.extents, self.shape = extents, (pictures, height, width)
        sizes = (pictures, height, width)
        placed = np.isfinite(extents).all(axis=1)
        self.nowhere = int((~placed).sum())
        """Tokens that show no place."""
        self._tokens = np.flatnonzero(placed)
        bounds = []
        for axis, size in enumerate(sizes):
            centres = (np.arange(size) + 0.5) / size
            edges = extents[placed, 2 * axis : 2 * axis + 2].astype(np.float64)
            bounds.append(np.searchsorted(centres, edges))
        self._boxes = [
            tuple(slice(int(start), int(stop)) for start, stop in box) for box in np.stack(bounds, axis=1).tolist()
        ]
        self._count = self._sum(np.ones(len(extents)))
        self.several = bool((self._count > 1).any())
        """Whether some pixel is shown by several tokens."""

    def mean(self, values: Floats) -> Floats:
        """[T, H, W]: the mean of `values` [N_v] over the tokens that show each pixel; NaN where none does."""
        with np.errstate(invalid="ignore"):
            return self._sum(values) / self._count

    def _sum(self, values: Floats) -> Floats:
        total = np.zeros(self.shape)
        for token, box in zip(self._tokens.tolist(), self._boxes, strict=True):
            total[box] += values[token]
        return total
