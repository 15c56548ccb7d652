"""Tokens on pixels, against asking every token about every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.show.gather import Gathered
from harness.show.place import Canvas, Floats


def literal(extents: Floats, values: Floats, shape: tuple[int, int, int]) -> Floats:
    """The mean of the values of all tokens that show a pixel's centre, pixel by pixel."""
    found = np.full(shape, np.nan)
    for place in np.ndindex(*shape):
        at = [(index + 0.5) / size for index, size in zip(place, shape, strict=True)]
        here = [
            float(value)
            for extent, value in zip(extents.astype(np.float64), values, strict=True)
            if all(extent[2 * axis] <= at[axis] < extent[2 * axis + 1] for axis in range(3))
        ]
        if here:
            found[place] = sum(here) / len(here)
    return found


def test_every_family_against_the_literal_version(gathered: Gathered) -> None:
    """Tiles that overlap, tokens without a place, frames that share a token, columns before rows."""
    values = np.random.default_rng(0).random(gathered.n_visual)
    pictures = len(gathered.pictures)
    for height, width in ((9, 14), (23, 8)):
        canvas = Canvas(gathered.extents, pictures, height, width)
        found = canvas.mean(values)
        assert found.shape == (pictures, height, width)
        np.testing.assert_allclose(found, literal(gathered.extents, values, found.shape), rtol=1e-12)
        assert np.isfinite(found).mean() > 0.95
    ends = np.isnan(gathered.extents).any(axis=1)
    assert canvas.nowhere == ends.sum()
    family = gathered.request.model.rpartition("/")[2]
    assert bool(ends.any()) == (family == "llava_onevision")
    assert canvas.several == (family == "llava_onevision" and gathered.request.media == "image")


def test_a_token_without_a_place_moves_no_pixel() -> None:
    extents = np.array([[0, 1, 0, 1, 0, 0.5], [np.nan] * 6, [0, 1, 0, 0.5, 0, 1]])
    canvas = Canvas(extents, 1, 2, 2)
    assert canvas.nowhere == 1 and canvas.several
    np.testing.assert_array_equal(canvas.mean(np.array([2.0, 99.0, 4.0])), [[[3.0, 4.0], [2.0, np.nan]]])


@pytest.mark.parametrize("pictures", [2, 4, 5])
def test_tokens_of_a_stretch_of_time_lie_on_its_pictures(pictures: int) -> None:
    extents = np.array([[0, 0.5, 0, 1, 0, 1], [0.5, 1, 0, 1, 0, 1]])
    found: NDArray[np.floating] = Canvas(extents, pictures, 1, 1).mean(np.array([1.0, 2.0]))
    first = [1.0] * (pictures // 2)
    assert found.ravel().tolist() == first + [2.0] * (pictures - len(first))
