"""The sweep's answers are those that VLMEvalKit's own loops get from the same wrapper, one cell at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import sweep
from harness.experiments import Experiment
from harness.models import open_model
from harness.plan import Data, open_settings
from harness.store import Index, Store
from harness.vlmevalkit import data_root, kit
from model_wrappers.registry import method
from tests.benchmarks import layouts
from tests.sweep.conftest import ROWS, SMALL
from tests.tiny import tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

Make = Callable[..., Experiment]
Answers = dict[tuple[str, float, str], dict[Index, str | None]]

FEW = [{"method": "vanilla"}, {"method": "fastv", "fields": {"layer": 2}, "keep": [0.25]}]
MODELS: dict[str, tuple[Callable[[], Path], dict[str, Any]]] = {
    "qwen2_vl": (lambda: tiny_qwen2_vl(seed=5), SMALL),
    "llava_onevision": (lambda: tiny_llava_onevision(seed=5), {}),
    "vila": (lambda: tiny_vila(seed=5), {}),
}
families = pytest.mark.parametrize("family", MODELS)


def swept(experiment: Experiment, data: Path, store: Path) -> Answers:
    """By method, keep and benchmark: the sweep's predictions by index."""
    result = sweep.run(experiment, Store(store), data=Data(experiment, data))
    assert result.failures == []
    return {
        (experiment.rows[cell.row].method, cell.keep, cell.benchmark): {
            index: answer.prediction for index, answer in Store(store).cell(cell.settings).read().items()
        }
        for cell in result.cells
    }


def looped(experiment: Experiment, data: Path, folder: Path, infer: Callable[..., Any]) -> Answers:
    """The same from a loop of VLMEvalKit, with a freshly opened model and dataset for every cell."""
    load, (name,), found = kit("vlmeval.smp").load, experiment.models, {}
    for row in experiment.rows:
        for keep in row.keep:
            chosen = method(row.method, **row.fields)
            model = open_model(name, method=chosen, keep=keep, **open_settings(experiment, name))
            for benchmark in experiment.benchmarks:
                work = folder / f"{row.method}-{keep}-{benchmark}"
                work.mkdir(parents=True)
                out = work / "out.pkl"
                with data_root(data):
                    infer(model, "tiny", str(work), Data(experiment, data).open(benchmark).dataset, str(out))
                found[row.method, keep, benchmark] = load(str(out))
            model.close()
    return found


@families
def test_videos(experiment: Make, videos: Path, tmp_path: Path, family: str) -> None:
    made, settings = MODELS[family]
    rows = ROWS if family == "qwen2_vl" else FEW + [{"method": "random", "keep": [0.5]}]
    chosen = experiment(model=made(), settings=settings, rows=rows)
    ours = swept(chosen, videos, tmp_path / "runs")
    assert len(ours) == 2 * sum(len(row.keep) for row in chosen.rows)
    assert all(len(answers) == 4 for answers in ours.values())
    assert ours == looped(chosen, videos, tmp_path / "kit", kit("vlmeval.inference_video").infer_data)
    _telling(ours)


@families
def test_images(experiment: Make, tmp_path: Path, family: str) -> None:
    """MMStar is asked with a prompt of Qwen2-VL's own, and with the dataset's by the others; MME with the dataset's."""
    data = tmp_path / "data"
    layouts.mmstar(data, [layouts.choice_row(i, image=layouts.picture(i, 84)) for i in range(3)])
    layouts.mme(data, layouts.mme_pair(7) + layouts.mme_pair(8, "count"))
    made, settings = MODELS[family]
    chosen = experiment(model=made(), settings=settings, rows=FEW, benchmarks=("MMStar", "MME"))
    ours = swept(chosen, data, tmp_path / "runs")
    assert [len(answers) for answers in ours.values()] == [3, 4, 3, 4]
    assert ours == looped(chosen, data, tmp_path / "kit", kit("vlmeval.inference").infer_data)
    _telling(ours)


def _telling(answers: Answers) -> None:
    everything = {text for each in answers.values() for text in each.values()}
    assert len(everything) > 3, "a model that always says the same would prove nothing"
