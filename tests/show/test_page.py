"""The page: what a model or a user wrote is text, and nothing is fetched."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.show.draw import draw
from harness.show.gather import Gathered
from harness.show.page import data_uri, file_name, html, write
from model_wrappers.errors import UserError
from tests.show.test_draw import made

EVIL = '<script>alert("1")</script>'


class Page(HTMLParser):
    """A page's tags, attributes and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("evil", [EVIL, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "</title><b>"])
def test_questions_and_answers_are_text(evil: str) -> None:
    plain, page = Page(html(draw(made(lacking="none")))), Page(html(draw(made(evil, evil, lacking=evil))))
    assert page.tags == plain.tags and "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    said = "".join(page.words)
    assert said.count(evil) >= 4  # title, question, answer, the sentence in place of a map
    assert f"{evil}  (as with all tokens)" in said and "that  (not as with all tokens)" in said


def test_nothing_is_fetched(gathered: Gathered) -> None:
    page = Page(html(draw(gathered)))
    assert not {"link", "script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == page.tags.count("img") == 1 + len(gathered.guides) * (2 + len(gathered.request.keeps))
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert not {"href", "srcset", "action"} & {name for name, _ in page.attributes}
    without = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page.text)
    assert re.findall(r"https?:|//[a-z]|url\(|@import", without) == []
    assert "default-src 'none'; img-src data:" in page.text


def test_the_pictures_are_whole() -> None:
    drawing = draw(made())
    for source in re.findall(r"data:image/webp;base64,([^\"]+)", html(drawing)):
        Image.open(io.BytesIO(base64.b64decode(source))).load()
    pixels = drawing.rows[0].kept[0]
    shown = Image.open(io.BytesIO(base64.b64decode(data_uri(pixels).partition(",")[2])))
    assert shown.size == (pixels.shape[1], pixels.shape[0])
    assert np.abs(np.asarray(shown.convert("RGB"), float) - pixels).mean() < 12
    long = Image.open(io.BytesIO(base64.b64decode(data_uri(np.zeros((20000, 40, 3), np.uint8)).partition(",")[2])))
    assert long.height == 16383


def test_a_method_without_scores_has_its_sentence_in_place_of_panels() -> None:
    page = Page(html(draw(made(lacking="there is no compressor"))))
    assert "there is no compressor" in page.words and page.tags.count("img") == 1 + 4


def test_both_files_are_written_whole_under_a_name_of_their_own(tmp_path: Path) -> None:
    drawing = draw(made())
    paths = write(drawing, tmp_path / "new")
    name = file_name(drawing.gathered.request)
    assert [path.name for path in paths] == [f"{name}.png", f"{name}.html"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"{name}.html", f"{name}.png"]
    assert name.startswith("m-a-") and name != file_name(made("Another?").request)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        write(drawing, tmp_path / "file")
