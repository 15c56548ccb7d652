"""Points of Figure 3: which are on the Pareto front, and which are below what costs nothing."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from harness.figures import draw
from harness.figures.points import Point, at, pareto, points
from harness.statistics import Cell
from harness.store import digest
from harness.tables.layout import build
from harness.tables.rows import Group, RowResult, Table


def point(method: str, share: float, value: float, **more: object) -> Point:
    return Point("m", "Avg.(%)", method, method, share, share, value, **more)  # type: ignore[arg-type]


def test_the_front_is_what_no_other_point_beats() -> None:
    panel = [point("a", share, value) for share, value in ((1.0, 100), (0.5, 80), (0.5, 90), (0.6, 85), (0.1, 40))]
    panel += [point("b", 0.3, 40), point("b", 0.8, 103)]
    assert [(one.layer_mean, one.preservation) for one in pareto(panel)] == [(0.1, 40), (0.5, 90), (0.8, 103)]


def test_between_two_points_is_a_straight_line() -> None:
    curve = [point("a", 1.0, 100), point("a", 0.2, 20), point("a", 0.5, 80)]
    assert at(curve, 0.35) == pytest.approx(50) and at(curve, 0.75) == pytest.approx(90)
    assert (at(curve, 0.2), at(curve, 1.0)) == (20, 100)
    assert at(curve, 0.1) is None and at([], 0.5) is None


ROWS = {
    ("vanilla", 1.0): (1.0, 80),
    ("random", 0.5): (0.5, 40),
    ("fastv", 0.5): (0.75, 50),
    ("cnn", 0.5): (0.5, 60),
    ("uniform", 0.1): (0.1, 10),
    ("oracle", 0.1): (0.1, 80),
}
"""(method, keep) -> average retention, score."""


def table() -> Table:
    rows = [
        RowResult("m", method, "", keep, {name: Cell(score, 10, 10, name) for name in ("MMStar", "MVBench")})
        for (method, keep), (_, score) in ROWS.items()
    ]
    return build(rows, groups=[Group(("MMStar",), "Images"), Group(("MVBench",), "Videos", "video_avg_pct")])


def means(*left_out: str) -> dict[tuple[str, str, str, float], dict[str, float]]:
    return {
        ("m", method, digest({}), keep): {"MMStar": share, "MVBench": share}
        for (method, keep), (share, _) in ROWS.items()
        if method not in left_out
    }


def test_rows_become_points_panel_by_panel() -> None:
    found = points(table(), means())
    assert [one.panel for one in found] == ["Images"] * 6 + ["Videos"] * 6
    by = {one.method: one for one in found[:6]}
    assert by["fastv"].layer_mean == 0.75 and by["fastv"].preservation == 62.5
    # Random preserves 50% at half the tokens, so 75% at three quarters of them: FastV gives less there, and cnn more.
    assert {name for name, one in by.items() if one.below} == {"fastv"} and by["fastv"].below == ("random",)
    assert {name for name, one in by.items() if one.front} == {"vanilla", "cnn", "uniform"}  # the oracle knows too much
    assert points(table(), means("cnn")) != found and len(points(table(), means("cnn"))) == 10


def test_seeds_are_one_point() -> None:
    cells = {"MVBench": Cell(40.0, 10, 10, "s")}
    seeds = tuple(RowResult("m", "random", "", 0.5, cells, fields={"seed": seed}) for seed in range(3))
    vanilla = RowResult("m", "vanilla", "", 1.0, {"MVBench": Cell(80.0, 10, 10, "s")})
    merged = RowResult("m", "random", "", 0.5, cells, seeds=seeds)
    known = {("m", "random", digest({"seed": seed}), 0.5): {"MVBench": 0.5 + seed / 100} for seed in range(3)}
    known["m", "vanilla", digest({}), 1.0] = {"MVBench": 1.0}
    made = points(build([vanilla, merged], ["MVBench"]), known)
    assert [(one.method, round(one.layer_mean, 6), one.preservation) for one in made] == [
        ("vanilla", 1.0, 100.0),
        ("random", 0.51, 50.0),
    ]


def test_the_figure_and_its_data(tmp_path: Path) -> None:
    found = points(table(), means())
    paths = draw.write("Figure 3", found, tmp_path / "figures", "figure3")
    assert [path.name for path in paths] == ["figure3.png", "figure3.svg", "figure3.points.csv"]
    assert paths[0].read_bytes()[:4] == b"\x89PNG" and "<svg" in paths[1].read_text()
    lines = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert len(lines) == 12
    [fastv] = [line for line in lines if line["method"] == "fastv" and line["panel"] == "Images"]
    assert (fastv["layer_mean"], fastv["preservation"]) == ("0.75", "62.5")
    assert (fastv["front"], fastv["below"], fastv["low"]) == ("0", "random", "")
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw.write("Figure 3", found, tmp_path / "figures", "figure3")] == before


def test_what_is_below_is_hollow() -> None:
    found = points(table(), means())
    axes = draw._figure("Figure 3", found).axes[0]
    faces = {
        (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor()
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    assert faces.pop((75.0, 62.5)) == "white"
    assert len(faces) == 5 and "white" not in faces.values()
