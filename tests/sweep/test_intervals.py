"""From answers to intervals: clusters of the plan, seeds as one row, and nothing computed twice."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import results
from harness.experiments import Experiment
from harness.plan import Data, Plan, make
from harness.statistics.significance import Measured
from harness.store import Answer, Store
from tests.benchmarks import layouts

Made = tuple[Plan, Data, Store]
SEEDS = [{"method": "random", "fields": {"seed": seed}, "keep": [0.5]} for seed in (0, 1, 2)]
ROWS = [{"method": "vanilla"}, {"method": "fastv", "fields": {"layer": 2}, "keep": [0.5]}, *SEEDS]
VIDEOS = 12
LETTERS = "ABCDE"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions about each of 12 videos; question i has answer i % 5."""
    folder = tmp_path_factory.mktemp("data")
    rows = [layouts.next_row(i, i % 5, video=f"{4000 + i % VIDEOS}") for i in range(2 * VIDEOS)]
    layouts.next_qa(folder, rows)
    return folder


def _answers(store: Store, plan: Plan, number: int, right: Callable[[int], bool]) -> None:
    with store.cell(plan.cells[number].settings).open() as writer:
        for index in range(2 * VIDEOS):
            letter = LETTERS[(index + (not right(index))) % 5]
            writer.append(Answer(index, letter, None, 16, 8, [16, 8], 0.5, 0.001, 0.002))


@pytest.fixture
def made(experiment: Callable[..., Experiment], questions: Path, tmp_path: Path) -> Made:
    chosen = experiment(rows=ROWS, benchmarks=("NExT-QA-MC",))
    data, store = Data(chosen, questions), Store(tmp_path / "runs")
    plan = make(chosen, data, store)
    rules: list[Callable[[int], bool]] = [
        lambda index: index % 12 != 3,
        lambda index: index % 2 == 0,
        *(lambda index, seed=seed: index % 3 == seed for seed in range(3)),
    ]
    for number, rule in enumerate(rules):
        _answers(store, plan, number, rule)
    return plan, data, store


def test_a_table_says_how_sure_it_is(made: Made, tmp_path: Path) -> None:
    found = results.collect(*made)
    vanilla, fastv, random = found.table.rows
    assert vanilla.averages[0].interval is None
    assert (random.label, len(random.seeds)) == ("Random (3 seeds)", 3)
    assert random.cells["NExT-QA-MC"].score == pytest.approx(100 / 3)
    for row in (fastv, random):
        average = row.averages[0]
        assert average.interval is not None and average.interval.holds(average.value or 0)
        assert (average.n, average.asked) == (24, 24)
    (pair,) = [pair for pair in found.table.pairs if (pair.one, pair.other) == (0, 1)]
    assert (pair.samples, pair.clusters) == (24, VIDEOS)
    assert (pair.only_one, pair.only_other) == (10, 0)
    paths = results.write(found, tmp_path / "tables", "small")
    assert [path.name for path in paths][-2:] == ["small.pairs.csv", "small.sources.json"]
    lines = list(csv.DictReader((tmp_path / "tables" / "small.pairs.csv").open()))
    assert len(lines) == 3
    made_of = json.loads(paths[-1].read_text())
    assert len(made_of["rows"]) == 5, "the sources of every seed"
    assert made_of["commit"] and made_of["versions"]["torch"]


def test_intervals_are_kept_and_made_anew_when_an_answer_changes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    real = results.significance

    def counted(*given: Any) -> Measured:
        measured.append(given)
        return real(*given)

    monkeypatch.setattr(results, "significance", counted)
    first = results.collect(*made)
    assert results.collect(*made).table == first.table
    assert len(measured) == 1
    with made[2].cell(made[0].cells[1].settings).open() as writer:
        writer.append(Answer(1, "B", None, 16, 8, [16, 8], 0.5, 0.001, 0.002))
    changed = results.collect(*made)
    assert len(measured) == 2
    assert changed.table.rows[1].averages[0] != first.table.rows[1].averages[0]


def test_a_table_that_was_made_before_loads_nothing_heavy(made: Made, tmp_path: Path) -> None:
    plan, data, store = made
    results.collect(plan, data, store)
    code = f"""
import sys
from pathlib import Path
from harness import plan, results
from harness.experiments import load
from harness.tables.render import to_markdown
from harness.store import Store
chosen = load({str(tmp_path / "small.yaml")!r}, "paper")
data, store = plan.Data(chosen, Path({str(data.folder)!r})), Store(Path({str(store.root)!r}))
print(to_markdown(results.collect(plan.make(chosen, data, store), data, store).table))
print(sorted({{"torch", "vlmeval", "numpy", "scipy", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert "[" in done.stdout.splitlines()[5] and done.stdout.splitlines()[-1] == "[]"
