"""An exact and a judged score never stand in one column unmarked, however the table is written down."""

from __future__ import annotations

import csv
import io

from openpyxl import load_workbook

from harness.statistics import Cell, comparable
from harness.tables import RowResult, Table, build, from_csv, reference, to_csv, to_latex, to_markdown, to_xlsx

EXACT, JUDGE, OTHER = "exact match", "judge gpt-4.1", "judge gpt-4o"
PARTLY = "read, unclear replies by judge gpt-4.1"


def made(vanilla: str, cnn: str) -> Table:
    """Two rows whose MMBench-Video is scored in the ways given; Video-MME has one way."""
    rows = [
        RowResult("qwen2-vl", name, "", keep, {"Video-MME": Cell(50.0, 9, 9), "MMBench-Video": cell})
        for name, keep, cell in (
            ("vanilla", 1.0, Cell(2.0, 9, 9, scored=vanilla)),
            ("cnn", 0.25, Cell(1.0, 9, 9, scored=cnn)),
        )
    ]
    return build(rows, ["Video-MME", "MMBench-Video"], title="T")


def heads(table: Table) -> tuple[list[object], str, str]:
    """The head of the sheet, and the texts."""
    sheet = load_workbook(io.BytesIO(to_xlsx(table)))["table"]
    return [cell.value for cell in sheet[1]], to_markdown(table), to_latex(table)


def test_the_head_of_a_column_says_who_scored_it() -> None:
    for way, mark in ((EXACT, " (exact)"), (JUDGE, " (judged)"), (PARTLY, " (partly judged)"), ("", "")):
        table = made(way, way)
        sheet, markdown, latex = heads(table)
        assert f"MMBench-Video{mark}" in sheet and "Video-MME" in sheet
        assert f"| Video-MME | MMBench-Video{mark} |" in markdown and f"& MMBench-Video{mark} &" in latex
        lines = list(csv.DictReader(io.StringIO(to_csv(table))))
        assert [line.get("scored:MMBench-Video", "") for line in lines] == [way, way]
        assert "scored:Video-MME" not in lines[0]


def test_a_column_of_several_ways_says_it_in_each_cell_and_gives_no_average() -> None:
    for one, other in ((EXACT, JUDGE), (JUDGE, OTHER), ("", EXACT)):
        table = made(one, other)
        sheet, markdown, latex = heads(table)
        assert "MMBench-Video" in sheet and f"2.00 ({one or 'own metric'})" in markdown
        assert f"1.00 ({other})" in markdown and f"1.00 ({other})" in latex
        lines = list(csv.DictReader(io.StringIO(to_csv(table))))
        assert [line["scored:MMBench-Video"] for line in lines] == [one, other]
        assert [row.averages[0].value for row in table.rows] == [100.0, None]
        assert not comparable(*(row.cells["MMBench-Video"] for row in table.rows))


def test_a_csv_gives_the_ways_back() -> None:
    table = made(EXACT, EXACT)
    back = from_csv(to_csv(table))
    assert back.benchmarks == ("Video-MME", "MMBench-Video")
    assert [row.cells["MMBench-Video"].scored for row in back.rows] == [EXACT, EXACT]
    assert to_csv(back) == to_csv(table)


def test_beside_the_paper_ours_says_how_it_was_scored() -> None:
    shown = reference.render("table3", made(EXACT, EXACT))
    ours = [line for line in shown.splitlines() if line.startswith("| ours")]
    assert len(ours) == 2 and "2.00 (exact)" in ours[0] and "50.0 (" not in ours[0]
    assert "(exact)" not in "".join(line for line in shown.splitlines() if line.startswith("| paper"))
    assert "MMBench-Video: ours by exact match; the paper does not say by what judge its own are." in shown
