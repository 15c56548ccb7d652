"""Equal budgets: the keep that each method gets, the cells that follow, and what the table and the command say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from harness import plan as plans
from harness import results, sweep
from harness.cli import main
from harness.experiments import Experiment, load
from harness.flops import shape_of
from harness.matching import impossible, matched_keep, share
from harness.plan import Data
from harness.store import Store, digest
from harness.tables import from_csv, to_csv, to_markdown
from model_wrappers.errors import UserError
from model_wrappers.methods.base import LayerPruner, Selector
from model_wrappers.registry import method
from tests.sweep.conftest import write_experiment
from tests.tiny import tiny_qwen2_vl

ROWS: list[dict[str, Any]] = [
    {"method": "vanilla"},
    {"method": "fastv", "fields": {"layer": 2}, "keep": [0.5, 0.1]},
    {"method": "uniform", "keep": [0.5, 0.1]},
]


@dataclass(frozen=True)
class Staged(LayerPruner):
    """A third of what goes at each of three cuts."""

    def plan(self, n_layers: int, keep: float) -> dict[int, float]:
        return {n_layers * stage // 4: 1 - stage * (1 - keep) / 3 for stage in (1, 2, 3)}


@dataclass(frozen=True)
class Steps(Selector):
    """Realises a fifth or all, whatever is asked."""

    def counts(self, n_layers: int, keep: float, n_visual: int) -> list[int]:
        return [n_visual if keep > 0.2 else n_visual // 5] * n_layers


@pytest.mark.parametrize(
    ("layer", "layers", "retention", "keep"),
    [
        (4, 28, 0.5, 11 / 25),  # 3 x 100% + 25 x 44% = 28 x 50%
        (4, 28, 0.25, 4 / 25),
        (4, 28, 0.1, None),  # three full layers are 3/28 = 10.7% by themselves
        (4, 32, 0.1, 0.2 / 29),
        (2, 28, 0.1, 1.8 / 27),
        (4, 6, 0.5, None),
        (4, 28, 1.0, 1.0),
    ],
)
def test_the_keep_that_gives_fastv_the_budget_of_a_cut_at_the_input(
    layer: int, layers: int, retention: float, keep: float | None
) -> None:
    found = matched_keep(method("fastv", layer=layer), layers, retention)
    assert found == (None if keep is None else pytest.approx(keep, abs=1e-5))


def test_any_kind_is_matched_by_its_plan() -> None:
    for name in ("cnn", "uniform", "relevance"):
        assert [matched_keep(method(name), 28, keep) for keep in (0.5, 0.1)] == [0.5, 0.1]
    found = matched_keep(Staged(), 28, 0.6)
    assert found is not None and found < 0.6 and share(Staged(), 28, found) == pytest.approx(0.6, abs=1e-3)
    assert matched_keep(Steps(), 28, 0.2) == 0.2 and matched_keep(Steps(), 28, 0.5) is None


def test_matched_cells_have_the_chosen_keep_in_their_identity(
    experiment: Callable[..., Experiment], tmp_path: Path, checkpoint: Path, videos: Path
) -> None:
    plain = experiment(rows=ROWS, benchmarks=("NExT-QA-MC",))
    path = write_experiment(tmp_path, checkpoint, ROWS, ("NExT-QA-MC",))
    matched = load(path, "paper", match="equivalent_tokens")
    assert (plain.name, matched.name) == ("small", "small-matched")
    store = Store(tmp_path / "runs")
    before, after = (plans.make(each, Data(each, videos), store) for each in (plain, matched))
    assert [(cell.row, cell.retention, cell.keep) for cell in after.cells] == [
        (0, 1.0, 1.0),
        (1, 0.5, 0.4),  # 1 x 100% + 5 x 40% = 6 x 50%
        (2, 0.5, 0.5),
        (2, 0.1, 0.1),
    ]
    known = {digest(cell.settings) for cell in before.cells}
    assert [digest(cell.settings) in known for cell in after.cells] == [True, False, True, True]
    assert after.cells[1].settings["keep"] == 0.4
    assert plans.make(matched, Data(matched, videos), store) == after, "read back from the store"
    assert impossible(before) == []
    (said,) = impossible(after)
    assert said.startswith("FastV (layer=2) at 10% on ") and said.endswith("the least is 16.67%.")

    done = sweep.run(matched, store, data=Data(matched, videos), plan=after, workers=1)
    assert not done.failures
    found = results.collect(after, Data(matched, videos), store)
    vanilla, fastv, dash, uniform, _ = found.table.rows
    assert vanilla.equivalent_tokens == 16
    # Of 16 tokens 40% are 6, and 50% are 8.
    assert fastv.equivalent_tokens == fmean([16, 6, 6, 6, 6, 6]) and uniform.equivalent_tokens == 8
    assert (dash.model, dash.retention, dash.cells, dash.averages[0].value) == (vanilla.model, 0.1, {}, None)
    lines = to_markdown(found.table).splitlines()
    scores = [line.split("|")[4].strip() for line in lines if line.startswith("| ")]
    assert scores[0] == "NExT-QA-MC" and [score == "-" for score in scores[1:]] == [False, False, True, False, False]
    assert any(said in line for line in lines)
    assert any("FastV (layer=2) keeps 40% at its cut for 50%" in line for line in lines)
    assert "matched equivalent tokens" in lines[0]
    assert from_csv(to_csv(found.table)).rows[1].equivalent_tokens == pytest.approx(46 / 6, abs=1e-6)


def test_an_experiment_may_match_by_itself(tmp_path: Path, checkpoint: Path, videos: Path) -> None:
    """Under its own name and title, with the cells that `--match` makes; with the option too."""
    path = write_experiment(tmp_path, checkpoint, ROWS, ("NExT-QA-MC",))
    store = Store(tmp_path / "runs")
    asked = load(path, "paper", match="equivalent_tokens")
    path.write_text("match: equivalent_tokens\n" + path.read_text())
    for match in (None, "equivalent_tokens"):
        said = load(path, "paper", match=match)
        assert (said.name, said.title, said.match) == ("small", "Small", "equivalent_tokens")
        cells = [plans.make(each, Data(each, videos), store).cells for each in (said, asked)]
        assert cells[0] == cells[1] and cells[0][1].keep == 0.4
    path.write_text(path.read_text().replace("equivalent_tokens", "kv"))
    with pytest.raises(UserError, match="match: 'kv' is not allowed"):
        load(path, "paper")


def test_the_matched_experiment_has_a_keep_for_every_row_that_can_have_one() -> None:
    """PyramidDrop leaves no average layer a quarter, nor does DART's cut behind the second of six layers."""
    for profile, dashes in (("micro", {"pyramiddrop", "dart"}), ("paper", {"pyramiddrop"})):
        chosen = load("matched", profile)
        for model in chosen.models:
            layers = shape_of(model).decoder.layers
            for row in chosen.rows:
                made = method(row.method, **row.fields)
                for retention in row.keep:
                    keep = matched_keep(made, layers, retention)
                    assert (keep is None) == (row.method in dashes and retention == 0.25), (model, row)
                    assert keep is None or share(made, layers, keep) == pytest.approx(retention, abs=1e-3)


def test_the_command_says_what_cannot_match_before_it_runs(
    tmp_path: Path, videos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, tiny_qwen2_vl(seed=5), ROWS[:2], ("NExT-QA-MC",))
    asked = ["run", path, "--profile", "paper", "--data", videos, "--store", tmp_path / "runs", "--limit", 1]
    assert main([*map(str, asked), "--match", "equivalent_tokens"]) == 0
    out, err = capfd.readouterr()
    assert err.startswith("retain: FastV (layer=2) at 10% on ") and "Equivalent tokens" in out
    assert (tmp_path / "runs/tables/small-matched.csv").is_file()
    assert main([*map(str, asked), "--match", "kv"]) == 2
    store = ["--profile", "paper", "--data", videos, "--store", tmp_path / "runs", "--limit", 1]
    assert main(["leaderboard", *map(str, [path, *store]), "--match", "equivalent_tokens"]) == 0
    out = capfd.readouterr().out
    (board,) = (tmp_path / "runs/leaderboard-matched").glob("*.csv")
    assert len(board.read_text().splitlines()) == 3, "vanilla, and FastV where it can be matched"
    assert "small-matched" in out and "FastV" in out
