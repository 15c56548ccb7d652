"""The four ways to write a table down: what is read back is what was put in, and no text becomes anything else."""

from __future__ import annotations

import io
import os
import re

import pytest
from openpyxl import load_workbook

from harness.tables import Cell, Group, RowResult, Table, build, from_csv, to_csv, to_latex, to_markdown, to_xlsx, write
from harness.tables.rows import Costs
from model_wrappers.errors import UserError

NAMES = ["Video-MME", "MMBench-Video"]


def _row(method: str, keep: float, first: float | None, second: float | None, n: int = 100, **more) -> RowResult:
    cells = {
        "Video-MME": Cell(first, n, 100, "s1"),
        "MMBench-Video": Cell(second, 100, 100, "s2", "judge: exact match"),
    }
    return RowResult(more.pop("model", "micro-qwen2-vl"), method, more.pop("label", ""), keep, cells, **more)


@pytest.fixture
def table() -> Table:
    rows = [
        _row("vanilla", 1.0, 96.0, 2.8, evidence_kept=1.0, realised=1.0, layer_mean=1.0),
        _row("fastv", 0.25, 72.0, 2.1, evidence_kept=0.5, realised=0.2507, layer_mean=0.625, fields={"layer": 4}),
        _row("cnn", 0.1, None, 1.4, n=99, evidence_kept=0.875, realised=0.0972, layer_mean=0.0972),
    ]
    return build(rows, NAMES, title="Table 3", micro=True, notes=["A note of the caller."])


def _pipes(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_layout(table: Table) -> None:
    text = to_markdown(table)
    head, rule, *body = _pipes(text)
    assert head[:3] == ["Model", "Method", "Retention"]
    assert head[3:] == ["Video-MME", "MMBench-Video", "Avg.(%)", "n", "Layers (%)", "Evidence (%)"]
    assert set("".join(rule)) == {"-", ":"}
    assert body == [
        ["micro-qwen2-vl", "Vanilla", "100%", "96.0", "2.80", "100.0", "200", "100.0", "100.0"],
        ["", "FastV", "25%", "72.0", "2.10", "75.0", "200", "62.5", "50.0"],
        ["", "CNN (learned)", "10%", "incomplete (99 of 100)", "1.40", "-", "199/200", "9.7", "87.5"],
    ]
    assert text.startswith("**Table 3 (micro)**\n")
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_footnotes_say_what_a_reader_must_know(table: Table) -> None:
    notes = "\n".join(table.notes)
    assert "100 samples in each benchmark." in notes
    assert "MMBench-Video: judge: exact match." in notes
    assert "only n of N samples" in notes
    assert "25% kept 25.1%" in notes and "10% kept 9.7%" in notes
    assert "FastV layer=4" in notes
    assert "Kept tokens keep their own positions." in notes
    assert table.notes[-1] == "A note of the caller."


@pytest.mark.parametrize(
    ("method", "fields", "but"),
    [
        ("visionzip", {}, ", but for VisionZip"),
        ("visionzip", {"positions": "own"}, ""),
        ("fastv", {"positions": "renumber"}, ", but for FastV"),
        ("fastv", {}, ""),
    ],
)
def test_rows_that_renumber_positions_are_named(method: str, fields: dict[str, object], but: str) -> None:
    rows = [_row("vanilla", 1.0, 90, 2, realised=1.0), _row(method, 0.5, 80, 2, realised=0.5, fields=fields)]
    assert f"Kept tokens keep their own positions{but}." in build(rows, NAMES).notes


def test_micro_columns_and_title_only_in_micro(table: Table) -> None:
    paper = build(table.rows, NAMES, title="Table 3")
    assert "Evidence" not in to_markdown(paper) and "evidence_kept" not in to_csv(paper)
    assert "micro" not in paper.title


def test_rows_that_differ_in_a_field_are_told_apart() -> None:
    rows = [_row("vanilla", 1.0, 90, 2), *(_row("fastv", 0.5, 80, 2, fields={"layer": n}) for n in (2, 4))]
    assert [row.label for row in build(rows, NAMES).rows] == ["Vanilla", "FastV (layer=2)", "FastV (layer=4)"]


def test_each_model_is_measured_by_its_own_vanilla() -> None:
    rows = [
        _row(m, k, s, s, model=name)
        for name, base in (("A", 80), ("B", 40))
        for m, k, s in (("vanilla", 1.0, base), ("cnn", 0.5, 20))
    ]
    averages = [row.averages[0].value for row in build(rows, NAMES).rows]
    assert averages == pytest.approx([100, 25, 100, 50])


def test_a_benchmark_that_was_not_run() -> None:
    rows = [
        _row("vanilla", 1.0, 90, 2),
        RowResult("micro-qwen2-vl", "cnn", "", 0.5, {"Video-MME": Cell(80, 100, 100, "s1")}),
    ]
    built = build(rows, NAMES)
    assert _pipes(to_markdown(built))[-1][3:] == ["80.0", "-", "-", "100"]
    assert any("a benchmark is missing" in note for note in built.notes)


def test_csv_round_trip(table: Table) -> None:
    text = to_csv(table)
    again = from_csv(text, title=table.title)
    assert to_csv(again) == text
    assert again.micro and again.benchmarks == table.benchmarks
    for row, other in zip(table.rows, again.rows, strict=True):
        assert (other.model, other.method, other.label, other.retention) == (
            row.model,
            row.method,
            row.label,
            row.retention,
        )
        assert (other.evidence_kept, other.realised, other.layer_mean) == (
            row.evidence_kept,
            row.realised,
            row.layer_mean,
        )
        assert [c.score for c in other.cells.values()] == [c.score for c in row.cells.values()]
        assert other.averages == row.averages
    assert again.rows[2].cells["Video-MME"] == Cell(None, 99, 100)


def test_small_numbers_keep_their_digits_in_csv() -> None:
    costs = Costs(tflops=0.0000504321)
    row = RowResult("m", "cnn", "", 0.5, {"Video-MME": Cell(80.123456789, 100, 100, "s1")}, costs=costs)
    text = to_csv(build([row], NAMES))
    assert "5.04321e-05" in text and "80.123457" in text


def test_csv_round_trip_of_two_groups_and_awkward_text() -> None:
    groups = [Group(("MME",), "Image Avg.(%)", "image_avg_pct"), Group(("MVBench",), "Video Avg.(%)", "video_avg_pct")]
    rows = [
        RowResult("a,b", method, 'say "x"\nand | y', keep, {"MME": Cell(2000.5), "MVBench": Cell(41.2)})
        for method, keep in (("vanilla", 1.0), ("cnn", 0.125))
    ]
    built = build(rows, groups=groups)
    again = from_csv(to_csv(built))
    assert again.groups == tuple(groups)
    assert [row.label for row in again.rows] == [row.label for row in built.rows]
    assert [row.cells for row in again.rows] == [row.cells for row in built.rows]
    assert "12.5%" in to_markdown(built) and "say" in to_markdown(built)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,retention,MME,avg_pct\n", "missing: method"),
        ("model,method,retention,MME\nm,vanilla,1,5\n", "no average column after MME"),
        ("model,method,retention,MME,avg_pct\nm,vanilla,1,5o,100\n", "line 2 .* MME is '5o'"),
        ("model,method,retention,MME,avg_pct\nm,vanilla,,50,100\n", "line 2 .* retention is empty"),
    ],
)
def test_a_broken_csv_is_told_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_csv(text)


def test_xlsx_holds_numbers_as_numbers(table: Table) -> None:
    book = load_workbook(io.BytesIO(to_xlsx(table)))
    assert book.sheetnames == ["micro", "about"]
    head, *body = [list(line) for line in book["micro"].iter_rows(values_only=True)]
    assert head[:6] == _pipes(to_markdown(table))[0][:6] and head[6:8] == ["Avg.(%) n", "Avg.(%) asked"]
    assert body[1] == ["micro-qwen2-vl", "FastV", 0.25, 72.0, 2.1, pytest.approx(75.0), 200, 200, 0.625, 0.5]
    assert body[2][3] == "incomplete (99 of 100)" and body[2][5] is None
    about = [line[0] for line in book["about"].iter_rows(values_only=True)]
    assert about == [table.title, *table.notes]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "#N/A", "a\x07b"])
def test_xlsx_text_is_never_a_formula(text: str) -> None:
    rows = [_row("vanilla", 1.0, 90, 2, model=text, label=text)]
    book = load_workbook(io.BytesIO(to_xlsx(build(rows, NAMES, title=text))))
    for cell in (book["table"]["A2"], book["table"]["B2"], book["about"]["A1"]):
        assert cell.data_type == "s"
        assert cell.value == text.replace("\x07", "\N{REPLACEMENT CHARACTER}")
        assert bool(cell.quotePrefix) == (text[0] in "=+-@")


def test_latex_is_booktabs_and_escaped() -> None:
    rows = [
        _row(method, keep, 90, 2, model=model, label="50% of $x_1 & {y}\\z~^#")
        for model in ("A", "B")
        for method, keep in (("vanilla", 1.0), ("cnn", 0.5))
    ]
    text = to_latex(build(rows, NAMES, title="A_B"))
    assert r"\caption{A\_B}" in text and "Avg.(\\%)" in text
    label = r"50\% of \$x\_1 \& \{y\}\textbackslash{}z\textasciitilde{}\textasciicircum{}\#"
    assert text.count(label + " &") == 4
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert body.count(r"\midrule") == 2
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 5
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {6}
    # Every special character that is left is one of LaTeX's own uses.
    assert not re.search(r"(?<!\\)[%$#_]", text.replace("% needs", ""))


def test_markdown_escapes_bars_and_lines() -> None:
    text = to_markdown(build([_row("vanilla", 1.0, 90, 2, label="a|b\nc")], NAMES))
    assert _pipes(text)[2][1] == r"a\|b c"


def test_write_makes_four_files_and_leaves_nothing_else(table: Table, tmp_path) -> None:
    folder = tmp_path / "results" / "tables"
    paths = write(table, folder, "table3")
    assert [path.name for path in paths] == ["table3.md", "table3.csv", "table3.xlsx", "table3.tex"]
    assert sorted(os.listdir(folder)) == sorted(path.name for path in paths)
    assert paths[0].read_text() == to_markdown(table)
    write(table, folder, "table3")
    assert len(os.listdir(folder)) == 4


def test_a_folder_that_cannot_be_written_is_one_sentence(table: Table, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file.*: "):
        write(table, tmp_path / "file", "table3")
