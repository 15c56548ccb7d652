"""Panels: what is white, what is coloured, where frames lie; and a PNG that takes any text."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.show.draw import GUTTER, draw, heat, masked, montage, notes, paint
from harness.show.gather import Cut, Gathered, Guide
from harness.show.place import Canvas
from harness.show.request import Request
from harness.show.sheet import DPI, png
from tests.show.test_place import literal


def made(question: str = "Which?", answer: str = "this", lacking: str | None = None) -> Gathered:
    """Two frames of 4 x 6 pixels; four tokens, one of which shows no place."""
    extents = np.array([[0, 0.5, 0, 1, 0, 1], [0.5, 1, 0, 1, 0, 0.5], [0.5, 1, 0, 1, 0.5, 1], [np.nan] * 6])
    cuts = (Cut(0.5, np.array([0, 2]), answer), Cut(0.25, np.array([1]), "that"))
    guides = (
        Guide("relevance", "Relevance", np.array([1.0, 2.0, 5.0, 0.0]), cuts),
        Guide("cnn", "Compressor", None if lacking else np.ones(4), () if lacking else cuts, lacking),
    )
    pictures = [np.full((4, 6, 3), shade, np.uint8) for shade in (50, 200)]
    return Gathered(Request("m", question, Path("a.mp4"), "video"), pictures, extents, answer, guides)


def test_what_is_not_kept_is_white(gathered: Gathered) -> None:
    """Half white where one of two tokens is kept; white where no token looks."""
    small = [np.asarray(Image.fromarray(picture).resize((12, 7))) for picture in gathered.pictures]
    pictures = np.stack(small)
    canvas = Canvas(gathered.extents, *pictures.shape[:3])
    for guide in gathered.guides:
        for cut in guide.cuts:
            stays = np.isin(np.arange(gathered.n_visual), cut.kept).astype(float)
            share = np.nan_to_num(literal(gathered.extents, stays, canvas.shape))
            found = masked(pictures, canvas, cut.kept)
            expected = 255 - share[..., None] * (255 - pictures.astype(float))
            assert np.abs(found - expected).max() <= 0.5 + 1e-9
            assert bool((found[share == 0] == 255).all()) and bool((found[share == 1] == pictures[share == 1]).all())
            assert 0 < share.mean() < 1


def test_colours_follow_the_scores() -> None:
    gathered = made()
    pictures = np.stack(gathered.pictures)
    canvas = Canvas(gathered.extents, 2, 4, 6)
    scores = gathered.guides[0].scores
    assert scores is not None
    found = heat(pictures, canvas, scores)
    assert found.highest == 2.5 and found.top == pytest.approx(np.quantile(scores / 2, 0.98))
    values = literal(gathered.extents, scores / 2, (2, 4, 6))
    grey = pictures @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_array_equal(found.pixels, montage(paint(values / found.top, grey).round().astype(np.uint8)))
    brightness = [paint(np.array([share]), np.array([70.0])).sum() for share in (0, 0.3, 0.6, 1.0)]
    assert brightness == sorted(brightness)


@pytest.mark.parametrize("scores", [np.zeros(4), np.array([0.0, 0.0, 0.0, 1.0])])
def test_scores_that_are_nearly_all_zero(scores: np.ndarray) -> None:
    gathered = made()
    found = heat(np.stack(gathered.pictures), Canvas(gathered.extents, 2, 4, 6), scores)
    assert found.top > 0 and np.isfinite(found.highest)


@pytest.mark.parametrize(("count", "columns", "lines"), [(1, 1, 1), (3, 3, 1), (8, 4, 2), (9, 4, 3), (20, 8, 3)])
def test_frames_lie_line_by_line(count: int, columns: int, lines: int) -> None:
    pictures = np.stack([np.full((5, 64, 3), number, np.uint8) for number in range(count)])
    found = montage(pictures)
    assert found.shape == (lines * 7 - 2, columns * 66 - 2, 3)
    for number in range(count):
        top, left = number // columns * 7, number % columns * 66
        assert bool((found[top : top + 5, left : left + 64] == number).all())
    assert int((found == GUTTER).sum()) >= found.size - 3 * count * 5 * 64


def test_the_notes_say_what_is_not_drawn() -> None:
    drawing = draw(made())
    assert drawing.nowhere == 1 and any("no place" in note and "1 of 4" in note for note in notes(drawing))
    assert not any("several tokens" in note for note in notes(drawing))
    assert any("several tokens" in note for note in notes(replace(drawing, several=True)))
    assert not any("no place" in note for note in notes(replace(drawing, nowhere=0)))


def test_a_png_of_every_family(gathered: Gathered) -> None:
    drawing = draw(gathered)
    image = Image.open(io.BytesIO(png(drawing)))
    assert image.format == "PNG" and image.width > 8 * DPI and image.height > 6 * DPI
    pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize("text", ["$5\\frac{ or $6", "<script>alert(1)</script>", "长" * 300, "a\nb" * 200, ""])
def test_any_text_can_be_drawn(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Image.open(io.BytesIO(png(draw(made(text or "?", text, lacking=text or None))))).format == "PNG"
