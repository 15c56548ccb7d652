"""Is there room for what a run downloads and writes?"""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.data.sources import SOURCES
from harness.doctor.check import Check, State, size
from harness.experiments import Experiment

AREA = "disk"
MARGIN = 1 << 30
"""Bytes that a run writes beside what it downloads and `pictures`: answers, plans, scores, tables."""
PICTURE = 150_000
"""Bytes of a frame or a decoded image: a guess, of a JPEG of 720 x 1280 pixels."""
GUESSED = "pictures (at most: a guess)"


def pictures(experiments: list[Experiment]) -> int:
    """Bytes of what runs keep of the paper's benchmarks as pictures: every image, and the frames of every video for the
    models that take no video. As if no two questions shared theirs, so it is a guess of the most.
    """
    from harness.benchmarks import benchmark
    from harness.plan import info_of
    from model_wrappers.families import family_class

    kept: set[tuple[str, int]] = set()
    for experiment in experiments:
        if experiment.data is not None:
            continue
        infos = {model: info_of(experiment, model) for model in experiment.models}
        models = [model for model, info in infos.items() if not family_class(info.family).VIDEO_LLM]
        for name in (name for name in experiment.benchmarks if name in SOURCES):
            frames = {1} if benchmark(name).modality == "image" else {experiment.frames_of(model) for model in models}
            kept |= {(name, count) for count in frames}
    return sum(SOURCES[name].questions * count * PICTURE for name, count in kept)


def checks(weights: int, sets: int, data: Path, store: Path, shown: int = 0) -> list[Check]:
    """A line for each file system that something goes to: `weights` bytes to the hub's cache, `sets` to `data`, and
    `shown`, a guess, to `store`: where only that would not fit, it is a warning.
    """
    from huggingface_hub import constants

    wanted = [(Path(constants.HF_HUB_CACHE), weights, "weights"), (store, MARGIN, "answers"), (data, sets, "data")]
    wanted.append((store, shown, GUESSED))
    needed: dict[int, list[tuple[Path, int, str]]] = {}
    for place, count, what in wanted:
        if count:
            at = _existing(place)
            needed.setdefault(at.stat().st_dev, []).append((at, count, what))
    found = []
    for parts in needed.values():
        place = parts[0][0]
        total, free = sum(count for _, count, _ in parts), shutil.disk_usage(place).free
        told = " and ".join(f"{size(count)} of {what}" for _, count, what in parts)
        sure = sum(count for _, count, what in parts if what != GUESSED)
        state: State = "ok" if total <= free else "warning" if sure <= free else "missing"
        found.append(Check(AREA, str(place), state, f"{told} to come, {size(free)} free"))
    return found


def _existing(place: Path) -> Path:
    place = place.expanduser().resolve()
    return place if place.exists() else _existing(place.parent)
