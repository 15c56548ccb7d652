"""Does a GPU hold each model with the largest prompts that the profile lets be?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.doctor.check import Check, State, size
from harness.estimate.memory import FORMULA, need
from harness.experiments import Experiment
from harness.sweep.device import free
from harness.sweep.memory import available

AREA = "GPU"
SMALL = 4 << 30
"""Bytes up to which a model runs well enough without a GPU."""
GRADIENTS = "relevance"
"""The method that keeps every layer's states."""


@dataclass(frozen=True)
class _Demand:
    total: int
    tokens: int
    weights: int


def checks(experiments: list[Experiment], data: Path | None) -> list[Check]:
    """The devices, and a line for each model: what it needs at the largest prompt that some experiment allows."""
    import torch

    devices = [torch.cuda.get_device_properties(each) for each in range(torch.cuda.device_count())]
    demands: dict[str, _Demand] = {}
    for experiment in experiments:
        for model in experiment.models:
            asked = _demand(experiment, model, data)
            if model not in demands or asked.total > demands[model].total:
                demands[model] = asked
    large = any(demand.total > SMALL for demand in demands.values())
    if not devices:
        told = "there is none, and models of billions need one" if large else "there is none; these models do without"
        found = [Check(AREA, "devices", "missing" if large else "ok", told)]
    else:
        found = [Check(AREA, "devices", "ok", ", ".join(f"{each.name}, {size(each.total_memory)}" for each in devices))]
    # What others hold is not to be had.
    most = max((free(f"cuda:{number}") for number in range(len(devices))), default=available())
    where = "the GPU" if devices else "memory"
    for model, demand in demands.items():
        state: State = "ok" if demand.total <= most else "missing"
        told = (
            f"needs about {size(demand.total)} at up to {demand.tokens} visual tokens, "
            f"{size(demand.weights)} of it weights"
        )
        found.append(Check(AREA, model, state, f"{told}; {where} has {size(most)} free"))
    return [*found, Check(AREA, "estimate", "ok", FORMULA)] if large else found


def of_a_cluster(checks: Iterable[Check]) -> list[Check]:
    """The checks where nodes of a cluster answer: a GPU that this machine lacks is no reason to stop, and theirs are
    not looked at.
    """
    nodes = "; with --ray the cluster's nodes answer, whose GPUs are not looked at"
    return [
        replace(check, state="warning", said=check.said + nodes)
        if (check.area, check.state) == (AREA, "missing")
        else check
        for check in checks
    ]


def _demand(experiment: Experiment, model: str, data: Path | None) -> _Demand:
    from harness.benchmarks import benchmark
    from harness.estimate.inputs import config_of, largest_of
    from harness.estimate.lengths import RESPONSE, TEXT
    from harness.flops import PromptSize, shape_of
    from harness.plan import info_of

    info = info_of(experiment, model)
    shape = shape_of(model)
    tied = bool(config_of(info).get("tie_word_embeddings"))
    gradients = any(row.method == GRADIENTS for row in experiment.rows)
    found = []
    for modality in {benchmark(name, data).modality for name in experiment.benchmarks}:
        shown = largest_of(info, experiment.settings_of(model), modality, experiment.frames_of(model))
        prompt = PromptSize(shown.visual, TEXT, TEXT, shown.pictures, max(RESPONSE.values()), modality)
        asked = need(shape, prompt, tied=tied, gradients=gradients)
        found.append(_Demand(asked.total, shown.visual, asked.weights))
    return max(found, key=lambda demand: demand.total)
