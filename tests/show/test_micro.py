"""`retain show` out of the box, on an embedded model: the figures that are kept in results/micro/figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Said
from tests.project.repository import ROOT

FIGURES = ROOT / "results" / "micro" / "figures"
ASKED = {
    "image": ("mmvet000.png", "What color is the clover?", "white"),
    "video": (
        "activitynetqa000.mp4",
        "What color is the triangle? Answer the question using a single word or phrase.",
        "red",
    ),
}


@pytest.mark.parametrize("kind", ASKED)
def test_a_figure_that_is_kept_is_what_the_command_draws(kind: str, tmp_path: Path, said: Said) -> None:
    file, question, answer = ASKED[kind]
    model, shown = "micro-qwen2-vl", FIGURES / "inputs" / file
    status, out, err = said("show", "--model", model, f"--{kind}", shown, "--question", question, "--out", tmp_path)
    assert status == 0 and out.startswith(f"Written: {tmp_path}"), err
    (png,), (page,) = (list(tmp_path.glob(f"*.{suffix}")) for suffix in ("png", "html"))
    kept = FIGURES / f"{model}-{kind}.png"
    with Image.open(png) as drawn, Image.open(kept) as before:
        drawn.load()
        assert drawn.size == before.size
    text = page.read_text("utf-8")
    assert f"{answer} (as with all tokens)" in " ".join(text.split()), "the compressor's answers, too"
    assert len(re.findall(r'<img [^>]*src="data:image/webp;base64,', text)) == text.count("<img ") == 1 + 3 * 4
    inside = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.findall(r"https?:|url\(|@import|<script|<link", inside), "it needs nothing but a browser"


def test_every_figure_is_kept_as_a_picture_and_as_a_page() -> None:
    pictures, pages = ({path.stem for path in FIGURES.glob(f"*.{suffix}")} for suffix in ("png", "html"))
    assert pictures == pages and len(pages) >= 8
    listed = (FIGURES / "README.md").read_text("utf-8")
    assert all(f"({name}.png)" in listed and f"({name}.html)" in listed for name in pages)
