"""Intervals, noise, numbers of samples, seeds and pairs in every way that a table is written down."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from openpyxl import load_workbook

from harness.statistics.significance import mcnemar
from harness.tables import (
    Cell,
    Group,
    RowResult,
    Table,
    build,
    from_csv,
    pairs,
    seeds,
    to_csv,
    to_latex,
    to_markdown,
    to_xlsx,
)
from harness.tables.rows import Average
from tests.statistics.made import answers, cell

GROUPS = [
    Group(("MME", "MMStar"), "Image Avg.(%)", "image_avg_pct"),
    Group(("MVBench",), "Video Avg.(%)", "video_avg_pct"),
]
NAMES = ("MME", "MMStar", "MVBench")
METHODS = [
    ("vanilla", 1.0, 0.9),
    ("cnn", 0.5, 0.72),
    ("fastv", 0.5, 0.7),
    ("relevance", 0.5, 0.4),
    ("oracle", 0.5, 0.9),
]
RANDOM = [("random", 0.5, 0.5)] * 3


def _rows() -> list[RowResult]:
    """Five rows and three of one method that differ in their seed, 100 samples of 50 videos in each benchmark."""
    generator = np.random.default_rng(11)
    methods = METHODS + RANDOM
    cells: list[dict[str, Cell]] = [{} for _ in methods]
    for name in NAMES:
        clusters = [f"{name} {number // 2}" for number in range(100)]
        right = answers(generator, 1, [2] * 50, [chance for *_, chance in methods])[0].T
        for row, values in zip(cells, right, strict=True):
            row[name] = cell(values, clusters=clusters, samples=name)
    fields: list[dict[str, int]] = [{}] * len(METHODS) + [{"seed": seed} for seed in (0, 1, 2)]
    return [
        RowResult("m", method, "", keep, row, fields=own)
        for (method, keep, _), row, own in zip(methods, cells, fields, strict=True)
    ]


@pytest.fixture(scope="module")
def table() -> Table:
    return build(seeds.merge(_rows()), groups=GROUPS, title="T")


def _by_method(table: Table) -> dict[str, RowResult]:
    return {row.method: row for row in table.rows}


def test_markdown_shows_interval_noise_and_number_of_samples(table: Table) -> None:
    text = to_markdown(table)
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[0][3:] == ["MME", "MMStar", "Image Avg.(%)", "n", "MVBench", "Video Avg.(%)", "n"]
    shown = {line[1]: line for line in lines[1:]}
    assert shown["Vanilla"][5:7] == ["100.0", "200"], "what vanilla preserves of itself is certain"
    for label, method in (("CNN (learned)", "cnn"), ("FastV", "fastv"), ("Relevance", "relevance")):
        average = _by_method(table)[method].averages[0]
        assert average.interval is not None and average.interval.holds(average.value or 0)
        ends = f"{average.value:.1f} [{average.interval.low:.1f}, {average.interval.high:.1f}]"
        marks = f"{' ≈' if average.noise else ''}{' ↓R' if method == 'relevance' else ''}"
        assert shown[label][5:7] == [ends + marks, "200"]
        assert shown[label][9] == "100"
    noisy = {row.method for row in table.rows if row.averages[0].noise}
    assert len(noisy) == 1 and noisy < {"cnn", "fastv"}, "one of two equals is best; the oracle does not compete"
    notes = "\n".join(table.notes)
    assert "95% interval of the average, from 2000 resamples" in notes
    assert "≈: noise" in notes and "n: samples behind the average." in notes
    assert "↓R: the average is below that of random at the same model and retention." in notes and "↓D" not in notes
    assert r"$\approx$" in to_latex(table) and "≈" not in to_latex(table)
    assert r"$\downarrow$R" in to_latex(table) and "↓" not in to_latex(table)


def test_a_terminal_of_200_columns_is_enough() -> None:
    names = ("Video-MME", "MVBench", "MMBench-Video", "NExT-QA-MC", "NExT-QA-OE", "ActivityNet-QA")
    rows = [
        replace(
            row,
            model="micro-llava-onevision",
            cells={name: replace(row.cells["MME"], samples=name) for name in names},
            layer_mean=0.5,
            evidence_kept=0.5,
        )
        for row in seeds.merge(_rows())
    ]
    text = to_markdown(build(rows, names, title="Table 3", micro=True))
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 200


def test_seeds_become_one_row_whose_csv_keeps_each(table: Table) -> None:
    row = _by_method(table)["random"]
    assert row.label == "Random (3 seeds)" and len(table.rows) == 6
    own = [each.cells["MME"].score or 0 for each in row.seeds]
    assert row.cells["MME"].score == pytest.approx(sum(own) / 3)
    assert any("Random (3 seeds): mean over seeds 0, 1, 2" in note for note in table.notes)
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    found = [(line["label"], line["seed"], float(line["MME"])) for line in lines if line["method"] == "random"]
    assert found == [
        ("Random (3 seeds)", "", pytest.approx(sum(own) / 3, abs=1e-5)),
        *((f"Random (seed={seed})", str(seed), pytest.approx(own[seed])) for seed in range(3)),
    ]
    alone = [average.value or 0 for each in row.seeds for average in each.averages[:1]]
    assert row.averages[0].value == pytest.approx(sum(alone) / 3)


def test_what_is_no_set_of_seeds_stays_apart() -> None:
    rows = _rows()
    assert [row.label for row in build(seeds.merge(rows[:7]), NAMES).rows[5:]] == ["Random (seed=0)", "Random (seed=1)"]
    twice = [*rows[:7], replace(rows[7], fields={"seed": 1})]
    assert len(seeds.merge(twice)) == 8, "the same seed twice is no third seed"
    other = [*rows[:7], replace(rows[7], retention=0.25)]
    assert len(seeds.merge(other)) == 8
    keeps = [replace(row, retention=keep) for row in rows[5:] for keep in (0.5, 0.25)]
    assert [(row.retention, len(row.seeds)) for row in seeds.merge(keeps)] == [(0.5, 3), (0.25, 3)]


def test_a_seed_that_lacks_answers_leaves_the_mean_without_score() -> None:
    rows = _rows()
    rows[6] = replace(rows[6], cells={**rows[6].cells, "MME": Cell(None, 97, 100, "MME")})
    row = _by_method(build(seeds.merge(rows), groups=GROUPS))["random"]
    assert (row.cells["MME"].score, row.cells["MME"].n, row.cells["MME"].total) == (None, 97, 100)
    assert row.averages[0] == Average(None, n=197, asked=200)
    assert row.averages[1].value is not None and row.averages[1].interval is not None


def test_csv_round_trip(table: Table) -> None:
    text = to_csv(table)
    head = next(csv.reader(io.StringIO(text)))
    about = ["lo", "hi", "noise", "below_random", "n", "asked"]
    assert head[4:13] == ["MME", "MMStar", "image_avg_pct", *(f"image_avg_{what}" for what in about)]
    assert head[13:] == ["MVBench", "video_avg_pct", *(f"video_avg_{what}" for what in about), "seed"]
    again = from_csv(text, title="T")
    assert to_csv(again) == text and again.groups == table.groups
    assert len(again.rows) == 6 and len(_by_method(again)["random"].seeds) == 3
    for row, other in zip(table.rows, again.rows, strict=True):
        for average, read in zip(row.averages, other.averages, strict=True):
            assert (read.value, read.n, read.asked) == (pytest.approx(average.value), average.n, average.asked)
            assert read.noise == average.noise and (read.interval is None) == (average.interval is None)


def test_xlsx_has_the_ends_as_numbers(table: Table) -> None:
    sheet = load_workbook(io.BytesIO(to_xlsx(table)))["table"]
    head, *body = [list(line) for line in sheet.iter_rows(values_only=True)]
    average = table.rows[1].averages[0]
    assert average.interval is not None
    place = head.index("Image Avg.(%) lo")
    assert body[1][place : place + 2] == pytest.approx([average.interval.low, average.interval.high])


def test_pairs_name_both_rows_and_test_right_against_wrong(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(pairs.to_csv(table))))
    assert tuple(lines[0]) == pairs.KEYS
    assert len(lines) == 2 * 15, "every two of six rows, by image and by video"
    (line,) = [
        each
        for each in lines
        if (each["method_a"], each["method_b"], each["average"]) == ("cnn", "relevance", "video_avg_pct")
    ]
    rows = _by_method(table)
    difference = (rows["cnn"].averages[1].value or 0) - (rows["relevance"].averages[1].value or 0)
    assert float(line["difference"]) == pytest.approx(difference, rel=1e-4)
    assert float(line["lo"]) < difference < float(line["hi"]) and line["noise"] == "0"
    assert float(line["mcnemar_p"]) == pytest.approx(mcnemar(int(line["only_a"]), int(line["only_b"])), rel=1e-5)
    assert (line["tested"], line["samples"], line["clusters"]) == ("MVBench", "100", "50")
    (seeded,) = [
        each
        for each in lines
        if (each["method_a"], each["method_b"], each["average"]) == ("cnn", "random", "video_avg_pct")
    ]
    assert (seeded["mcnemar_p"], seeded["only_a"], seeded["tested"]) == ("", "", "") and seeded["lo"]


def test_without_samples_nothing_is_claimed() -> None:
    bare = [
        replace(row, cells={name: replace(each, runs=()) for name, each in row.cells.items()}) for row in _rows()[:5]
    ]
    built = build(bare, groups=GROUPS)
    assert "[" not in "".join(line for line in to_markdown(built).splitlines() if line.startswith("|"))
    assert "avg_lo" not in to_csv(built) and "avg_noise" not in to_csv(built)
    assert not any("interval of the average" in note or "noise" in note for note in built.notes)
