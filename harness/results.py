"""From the store to a table: every cell scored once, rows put together, and where each number came from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from harness import identity, matching
from harness.costs import Prices
from harness.disk import write_atomically
from harness.experiments import WUPS, Experiment, Judge
from harness.judging.account import Account
from harness.judging.models import Price
from harness.judging.report import record
from harness.plan import Data, Plan, PlannedCell
from harness.statistics import Cell, Samples
from harness.statistics.significance import Measured, from_json, to_json
from harness.store import Answer, Index, Store, digest, missing, predictions_digest
from harness.sweep.progress import Progress
from harness.tables import seeds
from harness.tables.layout import build, significance
from harness.tables.rows import MISSING, Costs, Group, RowResult, Table
from model_wrappers.errors import UserError


@dataclass(frozen=True)
class Lack:
    """A cell without an answer (or a judge's verdict) to every sample, and the reasons of those that failed."""

    cell: PlannedCell
    answered: int
    total: int
    reasons: Mapping[Index, str]


@dataclass(frozen=True)
class Results:
    """The table, the cells that are not complete, and by row the folders and scores that its numbers were made of.

    `judging`: what judges cost, by benchmark; None where the experiment names none.
    """

    table: Table
    lacks: list[Lack]
    sources: list[dict[str, Any]]
    judging: dict[str, Any] | None = None


def collect(
    plan: Plan,
    data: Data,
    store: Store,
    *,
    score: bool = True,
    progress: Progress | None = None,
    account: Account | None = None,
) -> Results:
    """The table of a plan from what the store holds; no model is asked, and a judge only on an `account`.

    A cell is scored once: its score is kept under the digest of predictions, samples, judge and the scoring code, and
    so are the intervals of a table, so that one that was made before loads neither torch nor vlmeval nor numpy. Rows
    that differ only in their seed become one, see `harness.tables.seeds`. `score=False` leaves scores out and shows
    coverage only.

    Raises UserError where a metric cannot be computed (no judge, no WordNet); StoreError when the disk refuses.
    """
    experiment = plan.experiment
    account = account or account_of(experiment, store, asks=False)
    prices = Prices(experiment, store.root, data.folder)
    rows, lacks, sources = [], [], []
    unjudged: dict[str, None] = {}
    for model, row, keep, cells in plan.rows():
        scored: dict[str, Cell] = {}
        answers: list[Answer] = []
        source: dict[str, Any] = {"model": model, "method": row.method, "fields": row.fields, "keep": keep, "cells": {}}
        for cell in cells:
            indices = plan.samples[cell.benchmark]
            stored = store.cell(cell.settings)
            given = stored.read()
            lack = missing(given, indices)
            answers += [given[index] for index in indices if index in given and given[index].error is None]
            samples = digest([cell.settings["benchmark"], indices])[:12]
            key = None
            if progress:
                progress.at(f"scoring {model} {row.method}@{keep:g} {cell.benchmark}")
            done = len(indices) - len(lack)
            reasons = {index: str(given[index].error) for index in lack if index in given}
            if lack or not score:
                scored[cell.benchmark] = Cell(None, done, len(indices), samples)
            else:
                key, value = _score(experiment, cell, given, indices, data, store, account)
                done = value["n"]
                runs = _runs(value, plan.clusters[cell.benchmark])
                made = (value["headline"], done, len(indices), samples, value["note"], runs)
                scored[cell.benchmark] = Cell(*made, scored=value["scored"])
                if done < len(indices):
                    unjudged[cell.benchmark] = None
            if done < len(indices):
                lacks.append(Lack(cell, done, len(indices), reasons))
            source["cells"][cell.benchmark] = {"cell": stored.folder.name, "score": key}
        costs = prices.of(model, row, keep, answers)
        rows.append(_row(plan.name_of(model), row.method, row.label, row.fields, keep, scored, answers, costs))
        sources.append(source)
    title = experiment.title
    if experiment.max_samples is not None:
        title += f", first {experiment.max_samples} samples of each benchmark"
    merged = seeds.merge(rows)
    groups = [Group(tuple(group.benchmarks), group.header, group.key) for group in experiment.groups]
    measured = _measured(plan, merged, groups, sources, store) if score else None
    micro = experiment.data == "micro"
    notes = [f"{MISSING}: {sentence}." for sentence in plan.left_out()]
    notes += [*matching.chosen(plan), *matching.impossible(plan), *prices.notes()]
    notes += _not_judged(experiment, list(unjudged), account)
    table = build(merged, groups=groups, title=title, micro=micro, notes=notes, measured=measured)
    judges = {name: judge for name in experiment.benchmarks if isinstance(judge := experiment.judge_of(name), Judge)}
    configs = {name: _judge(judge, store, name, account) for name, judge in judges.items()}
    return Results(table, lacks, sources, record(account, configs) if configs else None)


def account_of(experiment: Experiment, store: Store, *, limit: float | None = None, asks: bool = True) -> Account:
    """The account of an experiment's judges; of a profile, whose models are not those of another."""
    return Account(store.root / "judge", f"{experiment.name} {experiment.profile}", limit=limit, asks=asks)


def check_judges(experiment: Experiment, store: Store, account: Account) -> None:
    """Raises UserError where answers could not be scored: WUPS without WordNet, or a judge that the experiment names
    and that could not be asked on that account, for lack of its key in the environment or, under a limit, of its price.
    """
    if experiment.needs_wordnet:
        from harness.scoring.wordnet import ABSENT, available

        if not available():
            raise UserError(f"{WUPS} cannot be scored: {ABSENT}")
    for name in experiment.benchmarks:
        if isinstance(judge := experiment.judge_of(name), Judge):
            from harness.scoring.judge import Judge as Client

            Client(_judge(judge, store, name, account))


def write(results: Results, folder: Path, name: str) -> list[Path]:
    """Writes the table as .md, .csv, .xlsx and .tex, `<name>.pairs.csv`: its rows compared two by two, and
    `<name>.sources.json`: the code that wrote it and the cells that each number was made of. Where there are judges,
    also `<name>.judging.json`: what they were asked, its tokens and its cost.
    """
    from harness.tables import pairs
    from harness.tables.render import write as write_table

    paths = write_table(results.table, folder, name)
    made_of = {**identity.origin(), "versions": identity.versions(), "rows": results.sources}
    contents = {"pairs.csv": pairs.to_csv(results.table), "sources.json": _json(made_of)}
    if results.judging:
        contents["judging.json"] = _json(results.judging)
    for suffix, content in contents.items():
        paths.append(folder / f"{name}.{suffix}")
        write_atomically(paths[-1], content)
    return paths


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _score(
    experiment: Experiment,
    cell: PlannedCell,
    given: Mapping[Index, Answer],
    indices: list[Index],
    data: Data,
    store: Store,
    account: Account,
) -> tuple[str, dict[str, Any]]:
    """The key of a cell's score and the score, computed if nobody did."""
    judge = experiment.judge_of(cell.benchmark)
    made_of = {
        "predictions": predictions_digest(given, indices),
        "benchmark": cell.settings["benchmark"],
        "frames": experiment.frames,
        "judge": judge.model_dump(include={"base_url", "model"}) if isinstance(judge, Judge) else judge,
        "scorer": _scorer_version(),
    }
    key = digest(made_of)[:24]
    kept = store.score(key)
    if kept is None:
        from harness.scoring import ScoringError, score

        config = _judge(judge, store, cell.benchmark, account) if isinstance(judge, Judge) else judge
        predictions = {index: given[index].prediction for index in indices}
        try:
            with tempfile.TemporaryDirectory(prefix="retain-score-") as workdir:
                made = score(data.open(cell.benchmark), predictions, judge=config, workdir=Path(workdir))
        except ScoringError as error:
            raise UserError(f"{cell.benchmark} cannot be scored: {error}; every answer is kept") from error
        kept = {
            "headline": made.headline,
            "by_group": dict(made.by_group),
            "per_sample": [[index, made.per_sample[index]] for index in indices if index in made.per_sample],
            "contributions": [made.contributions[index] for index in indices if index in made.per_sample],
            "strata": [made.strata[index] for index in indices if index in made.per_sample],
            "stratum_scale": made.stratum_scale,
            "n": made.n,
            "note": made.note,
            "scored": made.scored,
            "made_of": made_of,
        }
        if made.headline is not None:  # else a verdict is missing: the judge is asked again next time
            store.save_score(key, kept)
    return key, kept


def _runs(score: Mapping[str, Any], clusters: list[str]) -> tuple[Samples, ...]:
    """The samples behind a kept score; () where the headline is no mean of theirs, or one of them has no score."""
    if score["stratum_scale"] is None or len(score["contributions"]) != len(clusters):
        return ()
    right = tuple(value for _, value in score["per_sample"])
    made = tuple(score["contributions"]), tuple(clusters), tuple(score["strata"])
    return (Samples(*made, right, score["stratum_scale"]),)


def _measured(
    plan: Plan, rows: list[RowResult], groups: list[Group], sources: list[dict[str, Any]], store: Store
) -> Measured:
    """Intervals, noise and pairs of the table: kept beside the scores that they follow from, or computed and kept."""
    made_of = {
        "rows": [
            {**source, "cells": [[name, cell["score"]] for name, cell in source["cells"].items()]} for source in sources
        ],
        "labels": [row.label for row in rows],
        "samples": plan.samples,
        "clusters": plan.clusters,
        "groups": [group.benchmarks for group in groups],
        "code": identity.code_digest(
            ["harness.tables.seeds", "harness.tables.layout", "harness.statistics.bootstrap"], follow="harness"
        ),
    }
    key = f"table-{digest(made_of)[:24]}"
    kept = store.score(key)
    if kept is None:
        measured = significance(rows, groups)
        store.save_score(key, to_json(measured))
        return measured
    return from_json(kept)


def _judge(judge: Judge, store: Store, benchmark: str, account: Account) -> Any:
    """The settings with which a judge is asked about a benchmark on an account."""
    from harness.scoring.judge import JudgeConfig

    assert judge.model is not None  # the loader saw to it
    given = judge.price
    return JudgeConfig(
        judge.base_url,
        judge.model,
        judge.key_env,
        cache=store.root / "judge",
        price=Price(given.prompt, given.completion) if given else None,
        account=account,
        purpose=benchmark,
    )


def _not_judged(experiment: Experiment, benchmarks: list[str], account: Account) -> list[str]:
    """A footnote for each judge that did not judge all."""
    by_model: dict[str, list[str]] = {}
    for name in benchmarks:
        if isinstance(judge := experiment.judge_of(name), Judge) and judge.model is not None:
            by_model.setdefault(judge.model, []).append(name)
    why = account.stopped
    return [
        f"{', '.join(names)}: not judged yet where incomplete; {why.get(model, f'{model} gave no verdict')}."
        for model, names in by_model.items()
    ]


@cache
def _scorer_version() -> dict[str, str]:
    """The scoring code and the kit whose `evaluate` it calls: another one scores anew."""
    folder = Path(__file__).parent / "benchmarks"
    modules = ["harness.scoring", *(f"harness.benchmarks.{path.stem}" for path in folder.glob("[a-z]*.py"))]
    return {"code": identity.code_digest(modules, follow="harness"), "ms-vlmeval": identity.versions()["ms-vlmeval"]}


def _row(
    model: str,
    method: str,
    label: str | None,
    fields: Mapping[str, Any],
    keep: float,
    cells: dict[str, Cell],
    answers: list[Answer],
    costs: Costs | None,
) -> RowResult:
    counted = [answer for answer in answers if answer.visual]
    evidence = [answer.evidence_kept for answer in answers if answer.evidence_kept is not None]
    worked = [(fmean(answer.by_layer), answer.visual) for answer in counted if answer.by_layer and answer.visual]
    realised = [answer.kept / answer.visual for answer in counted if answer.kept is not None and answer.visual]
    return RowResult(
        model,
        method,
        label or "",
        keep,
        cells,
        evidence_kept=fmean(evidence) if evidence else None,
        realised=fmean(realised) if realised else None,
        layer_mean=fmean(tokens / visual for tokens, visual in worked) if worked else None,
        equivalent_tokens=fmean(tokens for tokens, _ in worked) if worked else None,
        fields=dict(fields),
        costs=costs,
    )
