"""What a compressor's design and its teacher are worth: one command, one table.

A row is one compressor, trained and measured as its neighbours but for what the ablation varies; beneath them what
needs no training. Training sets of several models give one table. A row is kept as soon as it is known: the same
command goes on after the last one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from tabulate import tabulate

from harness import identity
from harness.compressor.ablations import ABLATIONS, Ablation, Variant
from harness.compressor.batches import pairs_digest
from harness.compressor.evaluate import ATTENTION, KL, MASS, OURS, OVERLAP, RANDOM, SPEARMAN, agreement, evaluate
from harness.compressor.opened import Data
from harness.compressor.recipe import RECIPE
from harness.compressor.tables import HEADERS, plain
from harness.compressor.taught import NAME as TAUGHT
from harness.compressor.train import Settings, fit
from harness.disk import write_atomically
from harness.store import digest
from model_wrappers.errors import UserError

KNOWN = {**ABLATIONS, "recipe": RECIPE}
COLUMNS = (*OVERLAP.values(), MASS[0.25], SPEARMAN, KL)
CODE = [f"harness.compressor.{name}" for name in ("train", "evaluate", "batches", "split", "ablations")]


def run(name: str, folders: Sequence[Path], out: Path, settings: Settings, command: str) -> Path:
    """Makes an ablation's table, `out`/NAME.md, and its numbers, `out`/NAME.json.

    Args:
        name: of `KNOWN`.
        folders: training sets; those of one model and kind of media are compared with each other.
        settings: of every training, but for what is varied.
        command: what was typed.

    Returns:
        The path of the table.

    Raises:
        UserError: an unknown ablation, training sets that it cannot use, or a foreign NAME.json.
    """
    if name not in KNOWN:
        raise UserError(f"no ablation {name!r}; known are {', '.join([*KNOWN, TAUGHT])}")
    ablation = KNOWN[name]
    blocks = _blocks(name, ablation, [Data.open(folder) for folder in folders], settings)
    path = out / f"{name}.json"
    before = _read(path)
    rows: list[dict[str, Any]] = []
    about = {"ablation": name, "command": command, "settings": asdict(settings), **identity.origin()}
    for sets, variants in blocks:
        for variant in variants:
            keys = _keys(variant, sets[0])
            if not keys.keys() <= before.keys():
                found = _measured(variant, sets[0], keys)
                before |= found
                left = [row for row in before.values() if row not in rows]
                write_atomically(path, _json({**about, "rows": [*rows, *left]}))
            rows += [before[key] for key in keys]
    agreed = [_agreements(sets) for sets, _ in blocks if len(sets) > 1 and name != "length"]
    write_atomically(path, _json({**about, "rows": rows, "relevance": [line for lines in agreed for line in lines]}))
    table = path.with_suffix(".md")
    write_atomically(table, _page(ablation, settings, rows, agreed, command))
    return table


def _blocks(
    name: str, ablation: Ablation, opened: Sequence[Data], settings: Settings
) -> list[tuple[list[Data], list[Variant]]]:
    """The training sets of each model and kind of media, and the variants they make; all checked before any trains."""
    models: dict[tuple[str, str], list[Data]] = {}
    for data in opened:
        models.setdefault((data.mllm, data.media), []).append(data)
    for (mllm, media), sets in models.items():
        if not ablation.fewest <= len(sets) <= ablation.most:
            wanted = " to ".join(map(str, sorted({ablation.fewest, ablation.most})))
            raise UserError(
                f"ablation {name} takes {wanted} training sets of a model and kind of media (--data, repeated): "
                f"{len(sets)} of {mllm}, {media}, given"
            )
    return [(sets, list(ablation.variants(sets, settings))) for sets in models.values()]


def _keys(variant: Variant, data: Data) -> dict[str, str]:
    """What a row depends on, as a digest, for each of the variant's tests."""
    code, training = identity.code_digest(CODE), pairs_digest(variant.training)
    what = [variant.name, data.mllm, data.media, json.loads(json.dumps(asdict(variant.settings))), training, code]
    return {digest([*what, said, pairs_digest(pairs)]): said for said, pairs in variant.tests.items()}


def _measured(variant: Variant, data: Data, keys: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The variant's rows by key."""
    first = next(iter(variant.tests.values()))
    net = fit(variant.training, first, variant.settings, mllm=data.mllm, media=data.media).net
    rows = {}
    for key, said in keys.items():
        pairs = variant.tests[said]
        rows[key] = {
            "key": key,
            "mllm": data.mllm,
            "media": data.media,
            "variant": variant.name,
            "test": said,
            "parameters": net.n_parameters(),
            "flops": net.flops(round(fmean(len(pair.attention) for pair in pairs))),
            "trained_on": len(variant.training),
            "epochs": variant.settings.epochs,
            "held_out": evaluate(net, pairs).content(),  # with the paper's label, whatever taught it
        }
    return rows


def _agreements(sets: Sequence[Data]) -> list[dict[str, Any]]:
    """How far kinds of relevance agree with each other: the held-out samples that two sets share."""
    lines = []
    for one, data in enumerate(sets):
        for other in sets[one + 1 :]:
            theirs = {pair.id: pair.relevance for pair in other.sides[1]}
            shared = [pair for pair in data.sides[1] if pair.id in theirs]
            if not shared:
                continue
            found = [agreement(theirs[pair.id], pair.relevance) for pair in shared]
            lines.append(
                {
                    "mllm": data.mllm,
                    "media": data.media,
                    "between": [data.relevance, other.relevance],
                    "samples": len(shared),
                    **{metric: fmean(row[metric] for row in found) for metric in (*OVERLAP.values(), SPEARMAN)},
                }
            )
    return lines


def _page(
    ablation: Ablation,
    settings: Settings,
    rows: Sequence[Mapping[str, Any]],
    agreed: Sequence[Sequence[Mapping[str, Any]]],
    command: str,
) -> str:
    lines: list[list[str]] = []
    for block in dict.fromkeys((row["mllm"], row["media"]) for row in rows):
        own = [row for row in rows if (row["mllm"], row["media"]) == block]
        for row in own:
            cost = [f"{row['parameters']:,}", f"{row['flops'] / 1e6:.1f} M"]
            lines.append([*block, _said(row["variant"], row["test"]), *_cells(row, OURS), *cost])
        for said in dict.fromkeys(row["test"] for row in own):
            row = next(row for row in own if row["test"] == said)
            lines += [[*block, _said(rival, said), *_cells(row, rival), "", ""] for rival in (ATTENTION, RANDOM)]
    headers = ["model", "media", "compressor", *(HEADERS[metric] for metric in COLUMNS), "parameters", "FLOPs"]
    table = tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)
    between = "\n".join(
        f"- {line['mllm']}, {line['media']}: {_kinds(*line['between'])} agree in "
        f"{', '.join(plain(name, line[name]) for name in OVERLAP.values())} of the tokens kept at 50, 25 and 10% "
        f"(Spearman {line[SPEARMAN]:.3f}, {line['samples']:,} held-out samples)."
        for lines_of in agreed
        for line in lines_of
    )
    told = f"epochs {settings.epochs}, input scale {settings.input_scale}, {settings.precision}, seed {settings.seed}"
    return (
        f"# {ablation.title}\n\n{table}\n\n{ablation.note} Held-out samples; overlap is the share of the tokens kept "
        "that relevance would keep, too, mass the share of all relevance that they have. Trainings: "
        f"{told}, where a row does not say otherwise.\n"
        + (f"\nKinds of relevance among themselves:\n\n{between}\n" if between else "")
        + f"\nMade by `{command}`; intervals in the JSON file beside this one.\n"
    )


def _cells(row: Mapping[str, Any], method: str) -> list[str]:
    return [plain(metric, row["held_out"]["scores"][method][metric][0]) for metric in COLUMNS]


def _said(name: str, test: str) -> str:
    return f"{name}, {test}" if test else name


def _kinds(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    differs = [name for name in one if one[name] != other.get(name)]
    return " and ".join(", ".join(f"{name} {kind[name]}" for name in differs) for kind in (one, other))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by key of an earlier run; {} where there was none."""
    if not path.exists():
        return {}
    try:
        return {row["key"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no table of an ablation ({error}): give --out another folder") from error


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
