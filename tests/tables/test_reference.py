"""The paper's averages follow from its rows by our own code, and the one that does not is shown as a slip."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.experiments import load
from harness.statistics import Cell
from harness.tables import Group, RowResult, build, from_csv, reference, to_csv
from harness.tables.rows import Costs
from model_wrappers.errors import UserError

SCORES = ["table1", "table2", "table3", "table4", "table5", "table6"]


@pytest.mark.parametrize("name", SCORES)
def test_printed_averages_follow_from_their_rows(name: str) -> None:
    loaded = reference.load(name)
    slips = {(slip.model, slip.method, slip.retention, slip.column) for slip in loaded.slips}
    checked = 0
    for row, values in zip(loaded.table.rows, loaded.recomputed, strict=True):
        for group, printed, value in zip(loaded.table.groups, row.averages, values, strict=True):
            assert printed.value is not None and value is not None
            if (row.model, row.method, row.retention, group.key) not in slips:
                assert value == pytest.approx(printed.value, abs=0.1)
                checked += 1
    assert checked == sum(len(row.averages) for row in loaded.table.rows) - len(slips)


def test_number_of_rows_and_groups() -> None:
    sizes = {name: (len(reference.load(name).table.rows), len(reference.load(name).table.groups)) for name in SCORES}
    assert sizes == {
        "table1": (9, 2),
        "table2": (10, 1),
        "table3": (21, 1),
        "table4": (9, 1),
        "table5": (10, 1),
        "table6": (15, 1),
    }


def test_the_one_slip() -> None:
    (slip,) = reference.slips()
    assert (slip.table, slip.model, slip.method, slip.retention) == ("table3", "LLaVA-OneVision-7B", "cnn", 0.25)
    assert slip.printed == 97.3
    assert slip.recomputed == pytest.approx(97.635, abs=0.001)


def test_render_marks_the_slip_and_only_it() -> None:
    text = reference.render("table3")
    marked = [line for line in text.splitlines() if line.startswith("|") and "†" in line]
    assert len(marked) == 1
    assert "97.3 †" in marked[0] and "CNN (learned)" in marked[0]
    assert "prints 97.3 where its own row gives 97.6" in text
    assert "†" not in reference.render("table2")


@pytest.mark.parametrize("name", reference.names())
def test_every_table_is_shown(name: str) -> None:
    text = reference.render(name)
    assert "arXiv 2506.01097" in text and "Qwen2-VL-7B" in text


def test_table_8_says_its_slip() -> None:
    assert "11.8 with it" in reference.render("table8")
    assert "17%*" in reference.render("table8")


def _ours(model: str = "micro-qwen2-vl", **scores: float):
    names = ["Video-MME", "MVBench"]

    def row(method: str, keep: float, score: float) -> RowResult:
        return RowResult(model, method, "", keep, {name: Cell(score, 10, 10, name) for name in names})

    return build([row("vanilla", 1.0, 80.0), row("cnn", 0.25, 60.0), row("random", 0.25, 40.0)], names, micro=True)


def test_side_by_side_pairs_rows_of_the_same_family() -> None:
    text = reference.render("table3", _ours())
    beside = text[text.index("Ours beside the paper") :]
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in beside.splitlines() if line.startswith("| ")]
    assert lines[0] == ["Source", "Model", "Method", "Retention", "Video-MME", "MVBench", "Avg.(%)"]
    assert lines[3:] == [
        ["ours", "micro-qwen2-vl", "CNN (learned)", "25%", "60.0", "60.0", "75.0"],
        ["paper", "Qwen2-VL-7B", "CNN (learned)", "25%", "48.1", "46.7", "94.2"],
    ]
    assert "micro profile" in beside and "over different benchmarks" in beside


def scores(value: float, benchmarks: list[str]) -> dict[str, Cell]:
    return {name: Cell(value, 9, 9, name) for name in benchmarks}


MODELS = {
    "LLaVA-OneVision-7B": ("micro-llava-onevision", "llava-onevision-qwen2-7b-ov-hf"),
    "Qwen2-VL-7B": ("micro-qwen2-vl", "Qwen2-VL-7B-Instruct"),
    "VILA1.5-8B": ("micro-vila", "Llama-3-VILA1.5-8b"),
}


@pytest.mark.parametrize("profile", ["micro", "paper"])
@pytest.mark.parametrize("name", SCORES)
def test_every_row_of_the_paper_stands_beside_ours(name: str, profile: str) -> None:
    """A table made from the experiment's own rows, written and read back as `retain reference` does."""
    experiment, paper = load(name, profile), reference.load(name).table
    rows = [
        RowResult(model, row.method, row.label or "", keep, scores(50 * keep, experiment.benchmarks), fields=row.fields)
        for model in experiment.models
        for row in experiment.rows
        for keep in row.keep
    ]
    groups = [Group(tuple(group.benchmarks), group.header, group.key) for group in experiment.groups]
    ours = from_csv(to_csv(build(rows, groups=groups, micro=profile == "micro")))
    beside = reference.render(name, ours).partition("Ours beside")[2]
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in beside.splitlines()]
    body = [line for line in lines if line and line[0] in ("ours", "paper")]
    ours_of = {paper: names[profile == "paper"] for paper, names in MODELS.items()}
    assert len(body) == 2 * len(paper.rows)
    printed = {(row.model, row.method, row.retention): row for row in paper.rows}
    for mine, theirs in zip(body[::2], body[1::2], strict=True):
        assert (mine[0], theirs[0]) == ("ours", "paper")
        assert mine[1] == ours_of[theirs[1]] and mine[3] == theirs[3]
        assert mine[2].split(" (head_weights=grad)")[0] == theirs[2]
    heads = [name for group in paper.groups for name in (*group.benchmarks, group.header)]
    assert next(line for line in lines if line[:1] == ["Source"])[4:] == heads
    assert len({(line[1], line[2], line[3]) for line in body[1::2]}) == len(printed)


def test_nothing_shared_is_said() -> None:
    paper = reference.load("table3").table
    with pytest.raises(UserError, match="share no model"):
        reference.side_by_side(_ours("some-other-model"), paper)
    with pytest.raises(UserError, match="share no benchmark"):
        reference.side_by_side(_ours(), reference.load("table2").table)
    told = reference.render("table3", _ours("some-other-model"))
    assert told.startswith(reference.render("table3")) and told.endswith("share no model, method and retention.\n")


def test_ours_stand_below_the_same_rows_of_tables_7_and_8() -> None:
    cells = {"MMStar": Cell(40.0, 10, 10, "s")}

    def row(method: str, keep: float, layer: int | None, tflops: float | None) -> RowResult:
        fields = {} if layer is None else {"layer": layer}
        return RowResult("micro-llava-onevision", method, "", keep, cells, fields=fields, costs=Costs(tflops))

    rows = [row("vanilla", 1.0, None, 0.001), row("fastv", 0.25, 4, 0.0005), row("fastv", 0.25, 2, None)]
    rows += [row("cnn", 0.5, None, 0.0004), row("random", 0.25, None, 0.0003)]
    rows += [replace(row("pyramiddrop", 0.5, None, 0.0002), layer_mean=0.291)]
    text = reference.render("table7", from_csv(to_csv(build(rows, ["MMStar"]))))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    at = {place: line for place, line in enumerate(lines) if line[0] == "ours"}
    assert [(lines[place - 1][2:4], line[2:6]) for place, line in at.items()] == [
        (["Vanilla", "100%"], ["Vanilla", "100%", "0.001", "100.0"]),
        (["FastV", "25%"], ["FastV (layer=4)", "25%", "0.0005", "100.0"]),
        (["FastV", "25%"], ["FastV (layer=2)", "25%", "-", "100.0"]),
        (["PyramidDrop", "30%*"], ["PyramidDrop", "50%", "0.0002", "100.0"]),
    ]
    assert len([line for line in lines if line[0] == "paper"]) == 9


def test_unknown_table() -> None:
    with pytest.raises(UserError, match="'table9' is no table of the paper; known: table1"):
        reference.render("table9")
    with pytest.raises(UserError, match="FLOPs"):
        reference.load("table7")


def test_missing_folder_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="checkout"):
        reference.render("table3")
