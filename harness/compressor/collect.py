"""Making a training set: a mix is drawn from what lies in a folder, asked, and what is answered right is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import identity
from harness.compressor.dataset import TrainingSet
from harness.compressor.sources import Kind, Sample, find
from harness.compressor.sources.draw import Taken, choose, draw
from harness.compressor.sources.splits import TestSplits
from harness.models import ModelInfo, parse_model
from harness.scoring.judge import JudgeConfig
from harness.sweep.progress import Progress
from model_wrappers.errors import UserError


@dataclass(frozen=True)
class Options:
    """What is collected. `relevance`: all fields of the method `relevance`; `raised`: as of `budget.settings`."""

    model: str
    data: Path
    out: Path
    benchmarks: Path | None = None
    mix: Kind | None = None
    limit: int | None = None
    seed: int = 0
    max_visual: int = 1500
    raised: bool = False
    frames: int | None = None
    relevance: dict[str, Any] = field(default_factory=dict)
    judge: JudgeConfig | None = None
    workers: int | None = None


@dataclass
class Collected:
    """What a run did and where it stands.

    `counts`: of the whole set, as `TrainingSet.counts`; `sources`: asked and kept of each source; `kinds`: the same of
    open and of closed answers, of the samples drawn for this run; `failures`: why samples of this run failed; `lost`:
    what became of processes that ended early.
    """

    counts: dict[str, int]
    sources: dict[str, tuple[int, int]]
    kinds: dict[str, tuple[int, int]]
    failures: dict[str, str]
    lost: list[str]


def plan(options: Options) -> tuple[ModelInfo, list[Sample], list[Taken], TestSplits]:
    """What is to be asked, without loading a model.

    Raises:
        UserError: the model, the data or the mix cannot be used.
    """
    info, cut = parse_model(options.model)
    if cut:
        raise UserError(f"--model {options.model}: the uncompressed model is asked; name it without method and keep")
    sources = choose(find(options.data), options.mix)
    tests = TestSplits([options.data, *([options.benchmarks] if options.benchmarks else [])])
    samples, taken = draw(sources, tests, seed=options.seed, limit=options.limit)
    return info, samples, taken, tests


def collect(
    options: Options, info: ModelInfo, samples: list[Sample], taken: list[Taken], tests: TestSplits, progress: Progress
) -> Collected:
    """Asks what is missing of a training set, from `plan`; a second call asks nothing twice but what failed.

    Raises:
        UserError: settings that cannot be, a judge that does not answer; every outcome so far is kept.
        StoreError: the disk refuses, or another run writes into the folder.
    """
    from harness.compressor import budget
    from harness.compressor.asking import Job, Outcome
    from harness.compressor.grading import is_open

    media = samples[0].media
    settings = budget.settings(info, media, options.max_visual, options.frames, raised=options.raised)
    job = Job(options.model, settings, options.max_visual, options.relevance, options.judge)
    failures: dict[str, str] = {}
    with TrainingSet.create(options.out, _manifest(options, info, settings, media, taken, tests)) as kept:
        seen = kept.seen()
        todo = [sample for sample in samples if sample.id not in seen]
        todo.sort(key=lambda sample: sample.id in kept.records)  # those last that failed: one may end this process
        progress.begin(len(samples), len(samples) - len(todo))

        def take(outcome: Outcome) -> None:
            name, reason = outcome.record["id"], outcome.reason
            if reason is None:
                assert outcome.attention is not None and outcome.relevance is not None
                kept.add(outcome.record, outcome.attention, outcome.relevance)
            else:
                kept.drop(outcome.record, reason)
                if reason.startswith("failed: "):
                    failures[name] = reason.removeprefix("failed: ")
            progress.at(f"{len(kept)} kept")
            progress.advance(failed=name in failures)

        lost = _ask(job, todo, options.workers, take, progress) if todo else []
        counts, records = kept.counts(), list(kept.records.values())
    kinds = {sample.id: "open answers" if is_open(sample) else "closed answers" for sample in samples}
    by_source = _asked_and_kept((record["source"], record["kept"]) for record in records)
    by_kind = _asked_and_kept((kinds[record["id"]], record["kept"]) for record in records if record["id"] in kinds)
    return Collected(counts, by_source, by_kind, failures, lost)


def _asked_and_kept(records: Iterable[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for name, kept in records:
        asked, before = found.get(name, (0, 0))
        found[name] = (asked + 1, before + kept)
    return found


def _ask(
    job: Any, todo: list[Sample], workers: int | None, take: Callable[[Any], None], progress: Progress
) -> list[str]:
    import torch

    from harness.compressor import crew
    from harness.compressor.asking import Asker

    count = min(workers or max(1, torch.cuda.device_count()), len(todo))
    progress.at(f"opening {job.model}")
    if count > 1:
        return crew.ask(job, todo, count, take)
    with Asker(job) as asker:
        for outcome in asker.outcomes(todo):
            take(outcome)
    return []


def _manifest(
    options: Options,
    info: ModelInfo,
    settings: dict[str, Any],
    media: Kind,
    taken: list[Taken],
    tests: TestSplits,
) -> dict[str, Any]:
    """All that an answer, an attention and a relevance depend on, and what the samples were drawn from."""
    from model_wrappers.families import FAMILIES

    folder = Path(info.path_or_hub_id)
    source: dict[str, Any] = {"hub": info.path_or_hub_id, "revision": info.revision}
    if folder.is_dir():  # by content, wherever it lies
        source = {"files": identity.checkpoint_digest(folder)}
    modules = ["model_wrappers.relevance.streaming", "model_wrappers.relevance.attention", "model_wrappers.compression"]
    judge = options.judge
    return {
        "model": {
            "name": folder.name if folder.is_dir() else info.name,
            **source,
            "family": info.family,
            "settings": {**info.defaults, **settings},
            "code": identity.code_digest([*modules, f"model_wrappers.families.{FAMILIES[info.family][0]}"]),
            "versions": {**identity.versions(), "retain": identity.retain_version()},
        },
        "media": media,
        "max_visual": options.max_visual,
        "relevance": options.relevance,
        "judge": {"base_url": judge.base_url, "model": judge.model} if judge else "exact",
        "seed": options.seed,
        "sources": [
            {
                "name": each.source.name,
                "where": each.source.where,
                "asked": each.asked,
                "available": each.available,
                "left_out": each.left_out,
                "short": each.short,
            }
            for each in taken
        ],
        "test_splits": tests.counts(),
    }
