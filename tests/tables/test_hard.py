"""The samples that matter and the marks of rows below a floor, in every way that a table is written down."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from openpyxl import load_workbook

from harness.statistics import Cell
from harness.statistics.hard import Hard
from harness.tables import Group, RowResult, Table, build, from_csv, to_csv, to_latex, to_markdown, to_xlsx
from tests.statistics.made import cell

GROUPS = [
    Group(("MME", "MMVet"), "Image Avg.(%)", "image_avg_pct"),
    Group(("MVBench",), "Video Avg.(%)", "video_avg_pct"),
]
CLUSTERS = [str(number) for number in range(40)]


def _cells(mme: int, graded: float, mvbench: int) -> dict[str, Cell]:
    """So many of 40 answers right, the first ones."""
    right = {name: [1.0] * count + [0.0] * (40 - count) for name, count in (("MME", mme), ("MVBench", mvbench))}
    made = {name: cell(values, clusters=CLUSTERS, samples=name) for name, values in right.items()}
    return made | {"MMVet": cell([graded] * 40, clusters=CLUSTERS, samples="MMVet")}


def _rows() -> list[RowResult]:
    given = [
        ("vanilla", 1.0, (40, 0.75, 40)),
        ("random", 0.5, (10, 0.25, 10)),
        ("downsample", 0.5, (20, 0.5, 28)),
        ("cnn", 0.5, (30, 0.625, 32)),  # right on 10 of the 20 and on 4 of the 12 that matter
        ("fastv", 0.5, (18, 0.375, 8)),
        ("oracle", 0.5, (5, 0.125, 40)),
        ("cnn", 0.25, (20, 0.25, 20)),
    ]
    return [RowResult("m", method, "", keep, _cells(*counts)) for method, keep, counts in given]


@pytest.fixture(scope="module")
def table() -> Table:
    return build(_rows(), groups=GROUPS, title="T")


def test_rows_below_random_or_downsample_are_marked(table: Table) -> None:
    found = {(row.method, row.retention): [average.below for average in row.averages] for row in table.rows}
    assert found == {
        ("vanilla", 1.0): [(), ()],
        ("random", 0.5): [("downsample",)] * 2,
        ("downsample", 0.5): [(), ()],
        ("cnn", 0.5): [(), ()],
        ("fastv", 0.5): [("downsample",), ("random", "downsample")],
        ("oracle", 0.5): [(), ()],  # a bound competes with nobody
        ("cnn", 0.25): [(), ()],  # there is no random at 0.25
    }
    text = to_markdown(table)
    (line,) = [line for line in text.split("The samples that matter")[0].splitlines() if "| FastV" in line]
    assert line.count("↓D ") == 1 and line.count("↓RD ") == 1
    for note in ("↓R: the average is below that of random", "↓D: the average is below that of downsample"):
        assert note in text


def test_several_seeds_of_random_that_stay_apart_count_as_their_mean() -> None:
    rows = [RowResult("m", "vanilla", "", 1.0, _cells(40, 1, 40))]
    rows += [RowResult("m", "random", "", 0.5, _cells(n, 1, 40), fields={"seed": n}) for n in (10, 30)]
    rows += [RowResult("m", name, "", 0.5, _cells(n, 1, 40)) for name, n in (("cnn", 19), ("fastv", 21))]
    below = {row.method: row.averages[0].below for row in build(rows, ["MME"]).rows}
    assert (below["cnn"], below["fastv"]) == (("random",), ())


def test_markdown_has_a_table_of_the_samples_that_matter(table: Table) -> None:
    text = to_markdown(table)
    block = text.split("**The samples that matter**")[1]
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in block.splitlines() if line.startswith("| ")]
    assert lines[0] == ["Model", "Method", "Retention", "MME (n)", "Image all (n)", "MVBench (n)", "Video all (n)"]
    assert lines[1][:3] == ["m", "Random", "50%"], "the first row names the model"
    shown = {(line[1], line[2]): line[3:] for line in lines[1:]}
    assert shown["CNN (learned)", "50%"][0] == "50.0 (20)" and shown["CNN (learned)", "50%"][2] == "33.3 (12)"
    for place in (1, 3):  # with the interval: 20 and 12 videos are enough
        assert shown["CNN (learned)", "50%"][place].startswith(("50.0 [", "33.3 ["))
    assert shown["FastV", "50%"][0] == "0.0 (20)"
    assert len(shown) == 4, "nothing to say of vanilla, of downsample, and of cnn at 25% where downsample was not run"
    assert "The samples that matter are not known of MMVet: not run, or answers there are graded." in text
    assert "(arXiv 2510.07143)" in text


def test_csv_round_trip(table: Table) -> None:
    text = to_csv(table)
    lines = {(line["method"], line["retention"]): line for line in csv.DictReader(io.StringIO(text))}
    cnn = lines["cnn", "0.5"]
    assert (cnn["hard:MME_pct"], cnn["hard:MME_n"], cnn["hard:MVBench_n"]) == ("50", "20", "12")
    assert float(cnn["hard:video_avg_lo"]) < 100 / 3 < float(cnn["hard:video_avg_hi"])
    assert not any(name.startswith("hard:MMVet") or name == "hard:MME_lo" for name in cnn)
    assert lines["downsample", "0.5"]["hard:MME_pct"] == "" == lines["vanilla", "1"]["hard:MME_n"]
    assert [lines["fastv", "0.5"][f"video_avg_below_{name}"] for name in ("random", "downsample")] == ["1", "1"]
    again = from_csv(text, title="T")
    assert again.groups == table.groups and to_csv(again) == text
    assert again.rows[3].hard["MME"] == Hard(50.0, 20)


def test_xlsx_and_latex_hold_them(table: Table) -> None:
    sheet = load_workbook(io.BytesIO(to_xlsx(table)))["table"]
    head, *body = [list(line) for line in sheet.iter_rows(values_only=True)]
    assert body[3][head.index("MME hard pct")] == pytest.approx(50.0) and body[3][head.index("MME hard n")] == 20
    latex = to_latex(table)
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert r"$\downarrow$RD" in latex and "↓" not in latex and "The samples that matter" in latex


def test_without_downsample_there_is_nothing_of_them() -> None:
    rows = [row for row in _rows() if row.method != "downsample"]
    built = build(rows, groups=GROUPS)
    for text in (to_markdown(built), to_csv(built), to_latex(built)):
        assert "hard" not in text and "samples that matter" not in text
    bare = [replace(row, cells={name: replace(each, runs=()) for name, each in row.cells.items()}) for row in _rows()]
    assert "samples that matter" not in to_markdown(build(bare, groups=GROUPS))
