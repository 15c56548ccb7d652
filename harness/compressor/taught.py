"""Compressors by their teachers: one for each training set, and what the answers that they leave are worth.

The other ablations measure a compressor against the relevance that taught it, so they cannot say which kind of
relevance teaches best. Here each set's compressor is trained (or found trained, in the store), an experiment is written
that has a row for each teacher beside the input without a network and the floors, and it is run as any other: `retain
run` on the file goes on with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import cli, experiments
from harness.compressor import publish
from harness.compressor.opened import Data
from harness.compressor.train import Settings
from harness.disk import check_folder, disk_errors, write_atomically
from harness.options import DEFAULT_STORE
from model_wrappers.errors import UserError

NAME, KEEP, SEEDS = "taught", 0.25, 3
LIKE = "table3"
"""Whose micro profile says the benchmarks, the frames and the models there are."""
TARGETS = {"logit": "the logit", "margin": "the margin", "logprob": "the log-probability"}
KEPT = (".md", ".csv", ".sources.json")


def run(
    folders: Sequence[Path],
    out: Path,
    settings: Settings,
    command: str,
    *,
    store: Path = DEFAULT_STORE,
    limit: int | None = None,
) -> Path:
    """Makes `out`/taught.yaml from training sets, its table `out`/taught.md and .csv, and taught.sources.json.

    Args:
        folders: training sets of micro models, on videos; one for each model and teacher, the same teachers for all.
        settings: of every training.
        command: what was typed.
        store: where compressors and answers go.
        limit: only the first samples of each benchmark.

    Returns:
        The path of the table.

    Raises:
        UserError: training sets that make no such table, or a compressor that cannot be trained.
        typer.Exit: answers are missing, as `retain run` tells them; nothing is put into `out` but the experiment.
    """
    like = experiments.load(LIKE)
    sets = _by_teacher([Data.open(folder) for folder in folders], like.models)
    check_folder(out, "--out")
    place = store / "compressors" / NAME
    for teacher, by_model in sets.items():
        for model, data in by_model.items():
            publish.make(
                data.pairs,
                settings,
                place / model / teacher,
                mllm=model,
                media=data.media,
                data=data.about(),
                command=command,
                anew=True,  # the folder is this table's own: one of other samples or settings is out of date
            )
    models = [model for model in like.models if any(model in by_model for by_model in sets.values())]
    path = out / f"{NAME}.yaml"
    write_atomically(path, _experiment(like, models, sets, f"{place}/{{model}}", command))
    cli.run(str(path), limit=limit, store=store)
    with disk_errors(out):
        for suffix in KEPT:
            shutil.copy(store / "tables" / f"{NAME}{suffix}", out)
    return out / f"{NAME}.md"


def _by_teacher(opened: Sequence[Data], known: Sequence[str]) -> dict[str, dict[str, Data]]:
    """Teacher -> model -> its training set, teachers in the order in which they were given."""
    found: dict[str, dict[str, Data]] = {}
    for data in opened:
        if data.mllm not in known or data.media != "video":
            raise UserError(
                f"ablation {NAME} asks the micro video benchmarks: {data.folder} is of {data.mllm} on {data.media}s, "
                f"allowed are videos and {', '.join(known)}"
            )
        of_models = found.setdefault(_name(data.relevance), {})
        if data.mllm in of_models:
            raise UserError(
                f"ablation {NAME}: {of_models[data.mllm].folder} and {data.folder} are of the same model and relevance"
            )
        of_models[data.mllm] = data
    models = {data.mllm for data in opened}
    for teacher, of_models in found.items():
        if lacking := sorted(models - of_models.keys()):
            raise UserError(
                f"ablation {NAME} has a row for each teacher and model: no training set (--data) of {lacking[0]} and "
                f"teacher {teacher} is given"
            )
    return found


def _name(relevance: dict[str, Any]) -> str:
    """A teacher in a word, such as ``margin`` or ``logit-no-clamp``: the name of its compressors' folder."""
    unusual = ["" if relevance["clamp"] else "-no-clamp", "-mean" if relevance["head_weights"] == "mean" else ""]
    return f"{relevance['target']}{''.join(unusual)}"


def _label(relevance: dict[str, Any]) -> str:
    if relevance["head_weights"] == "mean":  # without a gradient there is nothing to explain
        return "CNN taught by the mean of heads, no gradient"
    return f"CNN taught by {TARGETS[relevance['target']]}{'' if relevance['clamp'] else ', not clamped'}"


def _experiment(
    like: experiments.Experiment,
    models: list[str],
    sets: dict[str, dict[str, Data]],
    place: str,
    command: str,
) -> str:
    """The YAML of the experiment; `place`: of the compressors, before the teacher's name."""
    rows: list[dict[str, Any]] = [{"method": "vanilla"}]
    for teacher, by_model in sets.items():
        label = _label(next(iter(by_model.values())).relevance)
        rows.append({"method": "cnn", "fields": {"compressor": f"{place}/{teacher}"}, "keep": KEEP, "label": label})
    rows += [{"method": method, "keep": KEEP} for method in ("first_layer_attention", "downsample")]
    rows += [{"method": "random", "fields": {"seed": seed}, "keep": KEEP} for seed in range(SEEDS)]
    title = "Compressors by their teachers, micro edition: video benchmarks, 8 frames"
    profile = {"models": models, "data": like.data, "frames": like.frames, "judge": like.judge, "rows": rows}
    content = {"name": NAME, "title": title, "benchmarks": like.benchmarks, "profiles": {like.profile: profile}}
    return f"# Written by `{command}`.\n" + yaml.safe_dump(content, sort_keys=False, width=120)
