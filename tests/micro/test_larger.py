"""Tables 5 and 6 really show the micro models more visual tokens than their compressors were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import experiments, plan
from harness.micro.families import FAMILIES, family
from harness.models import open_model
from harness.sweep.answering import message_for, use_frames_of


def _tokens(experiment: Any, data: plan.Data, model: str, benchmark: str) -> int:
    """Visual tokens of the first sample, asked as the sweep asks it."""
    opened = data.open(benchmark, experiment.frames_of(model))
    wrapper = open_model(model, **plan.open_settings(experiment, model))
    try:
        if opened.modality == "video":
            use_frames_of(wrapper, opened.dataset)
        else:
            wrapper.set_dump_image(opened.dataset.dump_image)
        return wrapper.prepare(message_for(wrapper, opened, 0), opened.dataset.dataset_name).n_visual
    finally:
        wrapper.close()


@pytest.mark.parametrize(
    ("small", "large", "benchmark"), [("table2", "table5", "MMStar"), ("table3", "table6", "MVBench")]
)
def test_at_least_two_and_a_half_times_as_many(small: str, large: str, benchmark: str, data: Path) -> None:
    before, after = experiments.load(small), experiments.load(large)
    for model in after.models:
        usual = _tokens(before, plan.Data(before, data), model, benchmark)
        video = benchmark == "MVBench"
        layout = family(model).layout(video=video, side=6 if video else 12)
        assert usual == layout.count, "what the compressor was trained on"
        larger = family(model).layout(video=video, side=6 if video else 12, larger=True).count
        assert _tokens(after, plan.Data(after, data), model, benchmark) == larger, "what the model was trained on"
        assert larger >= 2.5 * usual, model
    assert set(after.models) <= set(FAMILIES)
