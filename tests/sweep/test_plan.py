"""What a plan holds, what changes it, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import plan as plans
from harness import sweep
from harness.experiments import Experiment, load
from harness.plan import Data, open_settings
from harness.store import Store
from model_wrappers.compressor import Compressor
from tests.benchmarks import layouts
from tests.sweep.conftest import SMALL, write_experiment
from tests.tiny_vila import tiny_vila

Make = Callable[..., Experiment]


def test_samples_know_what_they_share(experiment: Make, tmp_path: Path) -> None:
    layouts.next_qa(tmp_path)  # questions 0 and 2 are about one video, 1 and 3 about another
    layouts.mme(tmp_path, layouts.mme_pair(3) + layouts.mme_pair(4))
    for limit in (None, 3):
        chosen = experiment(benchmarks=("NExT-QA-MC", "MME"), max_samples=limit)
        found = plans.make(chosen, Data(chosen, tmp_path), Store(tmp_path / "runs"))
        for name, repeats in (("NExT-QA-MC", [0, 1, 0, 1]), ("MME", [0, 0, 1, 1])):
            names = found.clusters[name]
            assert [names.index(each) for each in names] == [repeats.index(each) for each in repeats[:limit]]
            assert len(names) == len(found.samples[name])


def test_where_pictures_are_kept_changes_no_cell(experiment: Make, tmp_path: Path) -> None:
    layouts.mme(tmp_path / "data", layouts.mme_pair(3))
    chosen = experiment(benchmarks=("MME",))
    made = [
        plans.make(chosen, Data(chosen, tmp_path / "data", pictures), Store(tmp_path / f"runs{number}")).cells
        for number, pictures in enumerate((None, tmp_path / "a", Store(tmp_path / "b").pictures))
    ]
    assert made[0] == made[1] == made[2]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["pictures"]


def test_a_model_has_its_own_frames_and_settings(tmp_path: Path, checkpoint: Path, videos: Path) -> None:
    layouts.mme(tmp_path, layouts.mme_pair(3))
    layouts.next_qa(tmp_path)
    rows = [{"method": "vanilla"}]
    names = ("NExT-QA-MC", "MME")
    settings = {**SMALL, "frames": 4, "repetition_penalty": 1.5}
    chosen = load(write_experiment(tmp_path, checkpoint, rows, names, settings), "paper")
    data, store = Data(chosen, tmp_path), Store(tmp_path / "runs")
    video, image = plans.make(chosen, data, store).cells
    assert (chosen.frames, video.settings["frames"], image.settings["frames"]) == (8, 4, None)
    assert open_settings(chosen, str(checkpoint)) == {
        "dtype": "auto",
        "attn_implementation": "sdpa",
        "max_new_tokens": 4,
        "repetition_penalty": 1.5,
        **SMALL,
    }
    assert video.settings["generation"]["repetition_penalty"] == 1.5
    assert data.open("NExT-QA-MC").dataset.nframe == 8 and data.open("NExT-QA-MC", 4).dataset.nframe == 4
    assert data.open("MME") is data.open("MME", 4), "images have no frames"
    assert sweep.run(chosen, store, data=data).failures == []
    (kept,) = {answer.visual for answer in store.cell(video.settings).read().values()}
    assert kept == 8, "2 pairs of frames of 2 x 2 tokens"


def test_frames_that_the_kit_decodes_make_no_new_plan(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    layouts.next_qa(data)
    rows = [{"method": "vanilla"}]
    chosen = experiment(model=tiny_vila(), settings={}, rows=rows, benchmarks=("NExT-QA-MC",))
    store = Store(tmp_path / "runs")
    first = sweep.run(chosen, store, data=Data(chosen, data))
    assert first.answered == 4 and list(data.rglob("*.jpg"))
    monkeypatch.setattr(plans, "_resolve", lambda *_: pytest.fail("planned anew"))
    assert plans.make(chosen, Data(chosen, data), store) == first.plan


def test_a_plan_is_kept_until_something_it_depends_on_changes(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    layouts.next_qa(data)
    store = Store(tmp_path / "runs")
    chosen = experiment(benchmarks=("NExT-QA-MC",))
    first = plans.make(chosen, Data(chosen, data), store)
    made = []
    resolve = plans._resolve

    def watched(*given: Any) -> plans.Plan:
        made.append(given)
        return resolve(*given)

    monkeypatch.setattr(plans, "_resolve", watched)
    assert plans.make(chosen, Data(chosen, data), store) == first
    limited = experiment(benchmarks=("NExT-QA-MC",), max_samples=1)
    assert plans.make(limited, Data(limited, data), store).samples == {"NExT-QA-MC": first.samples["NExT-QA-MC"][:1]}
    assert made == []
    csv = data / "NExT-QA" / "test.csv"
    csv.write_text(csv.read_text().replace("block 0", "brick 0"))
    second = plans.make(chosen, Data(chosen, data), store)
    assert len(made) == 1
    assert not {cell.settings["benchmark"]["data"] for cell in first.cells} & {
        cell.settings["benchmark"]["data"] for cell in second.cells
    }


def test_a_compressor_is_its_config_and_weights_not_its_card(
    experiment: Make, checkpoint: Path, tmp_path: Path
) -> None:
    data, folder = tmp_path / "data", tmp_path / "compressor"
    layouts.next_qa(data)
    net = Compressor(mllm=checkpoint.name, media="video", channels=(4, 8))
    net.save_pretrained(folder)
    rows = [{"method": "cnn", "fields": {"compressor": str(folder)}, "keep": 0.5}]
    seen = []
    for change in (None, "card", "weights"):
        if change == "card":
            (folder / "README.md").write_text("Trained on much.")
        if change == "weights":
            torch.nn.init.zeros_(next(net.parameters()))
            net.save_pretrained(folder)
        chosen = experiment(rows=rows, benchmarks=("NExT-QA-MC",))
        (cell,) = plans.make(chosen, Data(chosen, data), Store(tmp_path / "runs")).cells
        seen.append(cell.settings["method"])
    assert seen[0] == seen[1] != seen[2]


def test_positions_are_part_of_a_cell(experiment: Make, videos: Path, tmp_path: Path) -> None:
    """Where they are a token's own, a cell's settings are what they were before there was a choice."""
    rows: list[dict[str, Any]] = [
        {"method": "uniform", "keep": [0.5]},
        {"method": "uniform", "fields": {"positions": "renumber"}, "keep": [0.5]},
        {"method": "visionzip", "keep": [0.5]},
        {"method": "visionzip", "fields": {"positions": "own"}, "keep": [0.5]},
        {"method": "prunevid", "fields": {"least": 2}, "keep": [0.5]},
        {"method": "fastvid", "keep": [0.5]},
    ]
    chosen = experiment(rows=rows, benchmarks=("NExT-QA-MC",), max_samples=1)
    store = Store(tmp_path / "runs")
    cells = plans.make(chosen, Data(chosen, videos), store).cells
    parts = [cell.settings["method"] for cell in cells]
    assert [part["positions"] for part in parts] == ["own", "renumber", "renumber", "own", "renumber", "own"]
    assert [part["fields"] for part in parts[:4]] == [
        {},
        {"positions": "renumber"},
        {"positions": "renumber", "contextual": 0.15625},
        {"contextual": 0.15625},
    ]
    assert len({store.cell(cell.settings).folder for cell in cells}) == len(cells)
    assert sweep.run(chosen, store, data=Data(chosen, videos)).failures == []
    answers = [list(store.cell(cell.settings).read().values()) for cell in cells]
    kept = [answer.kept for (answer,) in answers]
    assert kept[:4] == [8, 8, 8, 8] and 4 <= kept[4] <= 8 and kept[5] == 8, "of 4 steps of 2 x 2 tokens"
