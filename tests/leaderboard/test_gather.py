"""From answers in a store to a leaderboard: what becomes one entry, what cannot, and each number by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from harness import flops, plan, results
from harness.experiments import Experiment, load
from harness.leaderboard.checkpoints import parameters
from harness.leaderboard.entry import Entry, Leaderboard
from harness.leaderboard.gather import Gathering
from harness.models import checkpoint_folder, model_info
from harness.plan import Data, Plan
from harness.store import Answer, Store
from model_wrappers.errors import UserError
from tests.benchmarks import layouts
from tests.tiny import tiny_qwen2_vl

LETTERS = "ABCD"
CHECKPOINT = tiny_qwen2_vl(seed=5)
Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    layouts.next_qa(folder)
    layouts.mvbench(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def experiment(tmp_path: Path) -> Make:
    def make(name: str, rows: list[Any], benchmarks: list[str], pixels: int = 3136, **more: Any) -> Experiment:
        profile = {
            "models": [str(CHECKPOINT)],
            "frames": 8,
            "model_settings": {str(CHECKPOINT): {"min_pixels": pixels, "max_pixels": pixels}},
            "rows": rows,
            **more,
        }
        content = {"name": name, "title": name, "benchmarks": benchmarks, "profiles": {"paper": profile}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return load(tmp_path / f"{name}.yaml", "paper")

    return make


def layers(method: str, keep: float) -> list[int]:
    """What each of the tiny model's layers holds of 16 visual tokens."""
    depth = flops.read(CHECKPOINT).decoder.layers
    full = depth if method == "vanilla" else 1 if method == "fastv" else 0
    return [16] * full + [int(16 * keep)] * (depth - full)


def counts(keep: float) -> list[int]:
    """What each of them works on with PruneVID: two of five what the merge left, 1 / 0.4 of what is then held."""
    depth = flops.read(CHECKPOINT).decoder.layers
    cut = int(depth * 11 / 32 + 0.5)
    return [int(16 * keep / 0.4 + 0.5)] * cut + [int(16 * keep)] * (depth - cut)


def answered(
    chosen: Experiment, store: Store, videos: Path, wrong: dict[str, int] | None = None, *, broken: bool = False
) -> tuple[Plan, results.Results, Data]:
    """The experiment with an answer to every sample: right but for the first `wrong[method]` of each benchmark."""
    data = Data(chosen, videos)
    made = plan.make(chosen, data, store)
    for cell in made.cells:
        method = cell.settings["method"]["name"]
        opened = data.open(cell.benchmark)
        with store.cell(cell.settings).open() as writer:
            for place, index in enumerate(made.samples[cell.benchmark]):
                right = str(opened.rows.iloc[place]["answer"])
                letter = right_letter(opened, place, right)
                if place < (wrong or {}).get(method, 0):
                    letter = next(other for other in LETTERS if other != letter)
                held = layers(method, cell.keep)
                worked = counts(cell.keep) if method == "prunevid" else None
                writer.append(Answer(index, letter, None, 16, held[-1], held, worked=worked))
            if broken:
                writer.append(Answer(made.samples[cell.benchmark][0], error="The video is gone."))
    return made, results.collect(made, data, store), data


def right_letter(opened: Any, place: int, answer: str) -> str:
    """The letter of the right option, whether the benchmark keeps it as a letter, a place or the option itself."""
    if answer in LETTERS:
        return answer
    row = opened.rows.iloc[place]
    if answer.isdigit():
        return LETTERS[int(answer)]
    candidates = row["candidates"]
    return LETTERS[
        (json.loads(candidates.replace("'", '"')) if isinstance(candidates, str) else list(candidates)).index(answer)
    ]


def board_of(store: Store, *taken: tuple[Plan, results.Results, Data]) -> Leaderboard:
    gathering = Gathering(store)
    for each in taken:
        gathering.add(*each)
    return gathering.leaderboard()


def by_name(board: Leaderboard) -> dict[tuple[str, float], Entry]:
    return {(entry.method, entry.retention): entry for entry in board.entries}


VANILLA = {"method": "vanilla"}
FASTV = {"method": "fastv", "fields": {"layer": 2}, "keep": [0.5]}


def test_each_number_of_an_entry(experiment: Make, store: Store, videos: Path) -> None:
    made = answered(experiment("one", [VANILLA, FASTV], ["NExT-QA-MC"]), store, videos, {"fastv": 1})
    board = board_of(store, made)
    vanilla, fastv = board.entries
    decoder = flops.read(CHECKPOINT).decoder
    n = len(made[0].samples["NExT-QA-MC"])
    assert (vanilla.scores["NExT-QA-MC"].value, vanilla.preservation["all"].value) == (100.0, 100.0)
    assert fastv.scores["NExT-QA-MC"].value == pytest.approx(100 * (n - 1) / n)
    assert fastv.preservation["video"] == fastv.preservation["all"]
    assert fastv.preservation["all"].value == pytest.approx(100 * (n - 1) / n)
    assert fastv.preservation["image"].value is None
    held = layers("fastv", 0.5)
    assert fastv.equivalent_tokens == fmean(held) and fastv.realised == 0.5
    assert fastv.layer_share == fastv.kv_share == fmean(held) / 16
    assert fastv.tflops == pytest.approx(sum(flops.paper.layer(k, decoder) for k in held) / 1e12)
    assert vanilla.tflops == pytest.approx(decoder.layers * flops.paper.layer(16, decoder) / 1e12)
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as weights:
        counted = sum(weights.get_tensor(name).numel() for name in weights.keys())
    assert vanilla.parameters == counted > 0
    assert (fastv.budget, fastv.rank, vanilla.rank) == (round(100 * fmean(held) / 16), 1, None)
    assert (fastv.samples, fastv.failures, fastv.fields) == (n, 0, {"layer": 2})
    assert set(fastv.versions) >= {"retain", "torch", "transformers", "ms-vlmeval"}
    (cell,) = fastv.cells["NExT-QA-MC"]
    assert (store.root / "cells" / cell / "predictions.jsonl").is_file()
    assert fastv.date and fastv.date.endswith("Z") and fastv.run != vanilla.run and len(fastv.run) == 12


def test_rows_of_two_tables_become_one_entry(experiment: Make, store: Store, videos: Path) -> None:
    one = answered(experiment("one", [VANILLA, FASTV], ["NExT-QA-MC"]), store, videos)
    two = answered(experiment("two", [VANILLA, FASTV], ["MVBench", "NExT-QA-MC"]), store, videos)
    board = board_of(store, one, two)
    assert board.experiments == ["one", "two"] and "one, two" in board.title
    assert [(entry.method, list(entry.scores)) for entry in board.entries] == [
        ("vanilla", ["NExT-QA-MC", "MVBench"]),
        ("fastv", ["NExT-QA-MC", "MVBench"]),
    ]
    assert [column.name for column in board.benchmarks] == ["MVBench", "NExT-QA-MC"]
    assert {len(cells) for entry in board.entries for cells in entry.cells.values()} == {1}
    assert {score.value for entry in board.entries for score in entry.scores.values()} == {100.0}


def test_one_cell_scored_in_two_ways_is_refused(experiment: Make, store: Store, videos: Path) -> None:
    """As by two judges; here an answer changed between two tables."""
    one = answered(experiment("one", [VANILLA], ["NExT-QA-MC"]), store, videos)
    two = answered(experiment("two", [VANILLA], ["NExT-QA-MC"]), store, videos, {"vanilla": 1})
    with pytest.raises(UserError, match="vanilla@1 on NExT-QA-MC is scored in two ways by one, two"):
        board_of(store, one, two)


def test_tables_under_other_settings_do_not_go_together(experiment: Make, store: Store, videos: Path) -> None:
    gathering = Gathering(store)
    gathering.add(*answered(experiment("small", [VANILLA], ["NExT-QA-MC"]), store, videos))
    larger = answered(experiment("large", [VANILLA], ["NExT-QA-MC"], pixels=12544), store, videos)
    with pytest.raises(UserError, match=r"large asks .* on NExT-QA-MC under other settings than small"):
        gathering.add(*larger)
    assert gathering.conflict(*answered(experiment("more", [VANILLA], ["MVBench"]), store, videos)[:2]) is None


def test_a_matched_table_stands_alone(experiment: Make, store: Store, videos: Path) -> None:
    """FastV at 50% keeps another share of the tokens there."""
    rows = [VANILLA, {"method": "fastv", "fields": {"layer": 2}, "keep": 0.5}]
    plain = experiment("plain", rows, ["NExT-QA-MC"])
    matched = plain.model_copy(update={"name": "even", "match": "equivalent_tokens"})
    first, second = answered(plain, store, videos), answered(matched, store, videos)
    for one, other in ((first, second), (second, first)):
        gathering = Gathering(store)
        gathering.add(*one)
        with pytest.raises(UserError, match="even matches budgets and plain does not: make a leaderboard of each"):
            gathering.add(*other)


def test_seeds_are_one_entry_with_all_their_cells(experiment: Make, store: Store, videos: Path) -> None:
    rows = [VANILLA, *({"method": "random", "fields": {"seed": seed}, "keep": 0.5} for seed in range(3))]
    board = board_of(store, answered(experiment("one", rows, ["NExT-QA-MC"]), store, videos))
    assert [entry.label for entry in board.entries] == ["Vanilla", "Random (3 seeds)"]
    entry = board.entries[1]
    assert entry.fields == {"seeds": 3} and len(set(entry.cells["NExT-QA-MC"])) == 3
    assert entry.samples == board.entries[0].samples


def test_an_entry_below_random_is_marked(experiment: Make, store: Store, videos: Path) -> None:
    rows = [VANILLA, FASTV, {"method": "random", "keep": 0.5}]
    board = board_of(store, answered(experiment("one", rows, ["NExT-QA-MC"]), store, videos, {"fastv": 1}))
    marks = {entry.method: entry.preservation["all"].below for entry in board.entries}
    assert marks == {"vanilla": [], "fastv": ["random"], "random": []}


def test_a_failed_sample_is_counted_and_its_cell_has_no_score(experiment: Make, store: Store, videos: Path) -> None:
    made = answered(experiment("one", [VANILLA, FASTV], ["NExT-QA-MC", "MVBench"]), store, videos, broken=True)
    board = board_of(store, made)
    for entry in board.entries:
        assert (entry.failures, entry.rank, entry.complete) == (2, None, False)
        score = entry.scores["NExT-QA-MC"]
        assert score.value is None and score.answered == score.total - 1
        assert entry.preservation["all"].value is None
    assert any("incomplete (n of N)" in note for note in board.notes)


def test_what_nobody_answered_yet_stands_there_without_numbers(experiment: Make, store: Store, videos: Path) -> None:
    chosen = experiment("one", [VANILLA, FASTV], ["NExT-QA-MC"])
    data = Data(chosen, videos)
    made = plan.make(chosen, data, store)
    board = board_of(store, (made, results.collect(made, data, store), data))
    assert [(entry.budget, entry.tflops, entry.date, entry.failures) for entry in board.entries] == [
        (None,) * 3 + (0,)
    ] * 2
    assert not any("No TFLOPs" in note for note in board.notes)


def test_what_a_layer_worked_on_is_its_budget_and_what_it_held_its_cache(
    experiment: Make, store: Store, videos: Path
) -> None:
    made = answered(experiment("one", [VANILLA, {"method": "prunevid", "keep": 0.25}], ["NExT-QA-MC"]), store, videos)
    entry = by_name(board_of(store, made))["prunevid", 0.25]
    worked, decoder = counts(0.25), flops.read(CHECKPOINT).decoder
    assert worked[0] == 10 and worked[-1] == 4
    assert entry.equivalent_tokens == fmean(worked) and entry.layer_share == fmean(worked) / 16
    assert entry.budget == round(100 * fmean(worked) / 16) and entry.kv_share == entry.realised == 0.25
    assert entry.tflops == pytest.approx(sum(flops.paper.layer(n, decoder) for n in worked) / 1e12)
    row = made[1].table.rows[-1]
    assert (row.equivalent_tokens, row.layer_mean) == (fmean(worked), fmean(worked) / 16)


def test_relevance_has_no_tflops_and_that_is_said(experiment: Make, store: Store, videos: Path) -> None:
    rows = [VANILLA, {"method": "relevance", "keep": 0.5}, {"method": "uniform", "keep": 0.5}]
    board = board_of(store, answered(experiment("one", rows, ["NExT-QA-MC"]), store, videos))
    found = by_name(board)
    assert found["relevance", 0.5].tflops is None and found["relevance", 0.5].kv_share == 0.5
    assert found["uniform", 0.5].tflops is not None
    assert "No TFLOPs of Relevance: that convention has no term for what choosing costs there." in board.notes


def test_a_checkpoint_that_is_not_here_is_not_asked_for() -> None:
    assert checkpoint_folder(model_info("llava-onevision-qwen2-7b-ov-hf")) is None
    assert checkpoint_folder(model_info(str(CHECKPOINT))) == CHECKPOINT


def test_parameters_are_those_of_all_parts_but_the_compressors(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for place, shape in (("llm/a", (2, 3)), ("llm/b", (4,)), ("vision_tower/a", ()), ("compressor-video/a", (9, 9))):
        path = tmp_path / f"{place}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"x": torch.zeros(shape)}, path)
    assert parameters(tmp_path) == 6 + 4 + 1
    (tmp_path / "llm/a.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="llm/a.safetensors is not a safetensors file"):
        parameters(tmp_path)
    with pytest.raises(UserError, match="has no safetensors file"):
        parameters(tmp_path / "nothing")
