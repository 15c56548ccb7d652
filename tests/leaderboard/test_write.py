"""The three files: nothing in a cell acts, numbers are numbers, and the page needs no network."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.disk import StoreError
from harness.leaderboard.entry import Leaderboard
from harness.leaderboard.write import to_csv, to_html, to_json, to_markdown, write
from tests.leaderboard.boards import board, entry


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_numbers_as_numbers() -> None:
    (line,) = lines(to_csv(board(entry(rank=1, mean_rank=1.5, budget=25))))
    assert (line["MME"], line["MMBench-Video"]) == ("1900.5", "1.234")
    assert (line["retention"], line["kv_share"], line["tflops"]) == ("0.25", "0.25", "0.00021")
    assert (line["preservation_all"], line["preservation_all_low"], line["preservation_all_high"]) == (
        "90.0",
        "85.0",
        "95.0",
    )
    assert line["preservation_image"] == line["preservation_image_low"] == ""
    assert (line["parameters"], line["rank"], line["mean_rank"], line["budget"]) == ("1600000", "1", "1.5", "25")
    assert (line["samples"], line["failures"], line["run"]) == ("20", "0", "0123456789ab")
    assert line["date"] == "2026-11-21T10:00:00Z" and line["versions"] == "retain=0.1.0 torch=2.14.1"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n="])
def test_no_cell_of_a_csv_acts_as_a_formula(start: str) -> None:
    """A model's folder, a benchmark of one's own and a plugin's method may have any name."""
    evil = f'{start}HYPERLINK("x","y")'
    made = board(entry(evil, evil, scores={evil: None}, fields={evil: 1}, value=-5.0))
    cells = [cell for row in csv.reader(io.StringIO(to_csv(made), newline="")) for cell in row]
    acting = [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert acting == ["-5.0", "-5.0", "-10.0"]  # the numbers
    assert f"'{evil}" in cells


def test_an_incomplete_cell_says_so_and_is_no_number() -> None:
    made = board(entry(scores={"MME": None, "MMBench-Video": 1.0}, value=None))
    (line,) = lines(to_csv(made))
    assert line["MME"] == "incomplete (7 of 10)" and line["preservation_all"] == ""
    page = Page(to_html(made))
    assert page.cell("MME") == ("incomplete (7 of 10)", "") and page.cell("All (%)") == ("", "")


class Page(html.parser.HTMLParser):
    """A page's heads, cells with what they are sorted by, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.heads: list[str] = []
        self.cells: list[list[str]] = []
        self.at = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.at = tag
        if tag == "td":
            self.cells.append(["", dict(attrs)["data-value"] or ""])
        if tag == "button":
            self.heads.append("")

    def handle_endtag(self, tag: str) -> None:
        self.at = ""

    def handle_data(self, data: str) -> None:
        if self.at == "td":
            self.cells[-1][0] += data
        if self.at == "button":
            self.heads[-1] += data

    def cell(self, head: str, row: int = 0) -> tuple[str, str]:
        text, value = self.cells[row * len(self.heads) + self.heads.index(head)]
        return text, value


def test_the_page_shows_each_entry_and_what_it_is_sorted_by() -> None:
    page = Page(to_html(board(entry("one"), entry("two", value=None))))
    assert len(page.cells) == 2 * len(page.heads)
    assert page.cell("Model") == ("one", "one") and page.cell("Model", 1) == ("two", "two")
    assert page.cell("All (%)") == ("90.0 [85.0, 95.0]", "90.0")
    assert page.cell("Retention") == ("25%", "0.25")
    assert page.cell("MMBench-Video") == ("1.23", "1.234")
    assert page.cell("TFLOPs (paper)") == ("0.00021", "0.00021") and page.cell("Parameters")[0] == "1,600,000"


def test_no_name_in_a_page_acts_as_html() -> None:
    evil = "<script>alert(1)</script>"
    quote = '"><img src=x onerror=alert(1)>'
    page = Page(to_html(board(entry(evil, quote, scores={evil: 1.0}), title=evil, notes=[quote])))
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.cell("Model") == (evil, evil)
    assert evil in page.heads


def test_a_page_refers_to_nothing_outside_itself() -> None:
    text = to_html(board(entry()))
    page = Page(text)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not {"src", "href", "srcset", "action"} & {name for name, _ in page.attributes}
    assert re.findall(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|import\(", text) == []
    assert "default-src 'none'" in text


def test_a_page_filters_by_what_is_there() -> None:
    text = to_html(board(entry("one", keep=0.5, budget=50), entry("two", "fastv", budget=25), entry("two")))
    assert re.findall(r'data-column="(.*?)"', text) == ["Budget (%)", "Model", "Method", "Retention"]
    assert re.findall(r"<option>(.*)</option>", text) == ["50", "25", "one", "two", "CNN", "FASTV", "50%", "25%"]


def test_json_is_the_whole_and_fits_its_schema() -> None:
    made = board(entry(rank=1), entry("two", value=None, scores={"MME": None}))
    content: dict[str, Any] = json.loads(to_json(made))
    assert Leaderboard.model_validate_json(to_json(made)) == made
    schema = Leaderboard.model_json_schema()
    required = schema["$defs"]["Entry"]["required"]
    assert {"model", "method", "retention", "parameters", "scores", "preservation", "run", "cells"} <= set(required)
    assert all(set(required) <= set(each) <= set(schema["$defs"]["Entry"]["properties"]) for each in content["entries"])
    assert content["entries"][0]["cells"]["MME"] == ["m+cnn@0.25__MME__0123456789ab"]
    assert content["entries"][1]["scores"]["MME"] == {"value": None, "answered": 7, "total": 10, "scored": ""}


def test_the_short_table_has_one_line_an_entry() -> None:
    text = to_markdown(board(entry("one"), entry("a|b")))
    assert text.startswith("**Leaderboard**") and "90.0 [85.0, 95.0]" in text and r"a\|b" in text
    assert text.count("CNN") == 2 and text.endswith("- A note.\n")


def test_all_three_are_written(tmp_path: Path) -> None:
    made = board(entry())
    paths = write(made, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["leaderboard.csv", "leaderboard.json", "leaderboard.html"]
    assert paths[2].read_text("utf-8") == to_html(made)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write .*file"):
        write(made, tmp_path / "file")
