"""Scores of compressors as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness import identity
from harness.compressor.evaluate import ATTENTION, CEILING, KL, MASS, METRICS, OURS, OVERLAP, RANDOM, Evaluation, Score
from harness.disk import write_atomically
from model_wrappers.compressor import Compressor

HEADERS = {
    **{name: f"overlap, keep {keep:g}" for keep, name in OVERLAP.items()},
    "spearman": "Spearman",
    "kl": "KL (nats)",
    **{name: f"mass, keep {keep:g}" for keep, name in MASS.items()},
}
PERCENT = {*OVERLAP.values(), *MASS.values()}
METHODS = {OURS: "cnn (this compressor)", CEILING: "relevance (upper line)"}

NOTE = (
    "Overlap: share of the tokens kept that relevance would keep, too. Mass: share of all relevance that the tokens "
    "kept have. Means over samples; in brackets the 95% interval, videos or images drawn with replacement."
)


def score_table(found: Evaluation) -> str:
    """A row for each method."""
    rows = [
        [METHODS.get(name, name), *(_shown(metric, row[metric]) for metric in METRICS)]
        for name, row in found.scores.items()
    ]
    headers = ["method", *(HEADERS[metric] for metric in METRICS)]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def sentences(found: Evaluation) -> str:
    """What was measured, and whether the compressor beats what needs no training."""
    fewest, most = found.tokens
    tokens = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    samples = f"{found.samples:,} held-out samples about {found.groups:,} videos or images, {tokens} visual tokens."
    lines = [f"{samples} {NOTE}"]
    for rival in (ATTENTION, RANDOM):
        ahead = found.ahead[rival][OVERLAP[0.25]]
        points = 100 * ahead.value
        ends = f" [{100 * ahead.interval.low:+.1f}, {100 * ahead.interval.high:+.1f}]" if ahead.interval else ""
        lines.append(f"- Overlap at keep 0.25 against `{rival}`: {points:+.1f} points{ends}.")
    return "\n".join([lines[0], "", *lines[1:]])


def write_scores(
    found: Evaluation, net: Compressor, weights: Path, data: Mapping[str, Any], out: Path, command: str
) -> tuple[str, list[Path]]:
    """Writes `out`/MODEL-MEDIA.md and .json; returns the table's page and the two paths.

    Args:
        net: the compressor measured.
        weights: its file, named by its sha256.
        data: `opened.Data.about()` of the samples.
        command: what was typed.

    Raises:
        StoreError: the disk refuses.
    """
    title = f"Compressor of {net.mllm} for {net.media} prompts, on held-out samples of {data['folder']}"
    page = f"# {title}\n\n{score_table(found)}\n\n{sentences(found)}\n\nMade by `{command}`.\n"
    measured = {**net.config(), "weights": identity.file_digest(weights)}
    content = {"compressor": measured, "data": data, "command": command, **identity.origin(), **found.content()}
    paths = [out / f"{net.mllm}-{net.media}{suffix}" for suffix in (".md", ".json")]
    texts = (page, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    for path, text in zip(paths, texts, strict=True):
        write_atomically(path, text)
    return page, paths


def plain(metric: str, value: float) -> str:
    """A number with the metric's digits."""
    return f"{100 * value:.1f}%" if metric in PERCENT else f"{value:.3f}"


def _shown(metric: str, score: Score) -> str:
    if score.interval is None or metric == KL and score.value > 1e3:
        return plain(metric, score.value)
    low, high = (plain(metric, end).removesuffix("%") for end in (score.interval.low, score.interval.high))
    return f"{plain(metric, score.value)} [{low}, {high}]"
