"""Entries and leaderboards made by hand."""

from __future__ import annotations

from typing import Any

from harness.leaderboard.entry import Benchmark, Entry, Leaderboard, Preservation, Score


def entry(
    model: str = "m",
    method: str = "cnn",
    keep: float = 0.25,
    *,
    share: float | None = None,
    value: float | None = 90.0,
    scores: dict[str, float | None] | None = None,
    **more: Any,
) -> Entry:
    """An entry whose layers work on `share` (default: keep) of the tokens; its preservation is `value` percent."""
    given = {"MME": 1900.5, "MMBench-Video": 1.234} if scores is None else scores
    made: dict[str, Any] = {
        "model": model,
        "method": method,
        "label": method.upper(),
        "fields": {},
        "retention": keep,
        "realised": keep,
        "parameters": 1_600_000,
        "equivalent_tokens": 36.5,
        "layer_share": keep if share is None else share,
        "kv_share": keep if share is None else share,
        "tflops": 0.00021,
        "scores": {
            name: Score(value=score, answered=7 if score is None else 10, total=10) for name, score in given.items()
        },
        "preservation": {
            "image": Preservation(),
            "video": Preservation(value=value),
            "all": Preservation(value=value, low=value and value - 5, high=value and value + 5),
        },
        "samples": 20,
        "failures": 0,
        "run": "0123456789ab",
        "date": "2026-11-21T10:00:00Z",
        "versions": {"retain": "0.1.0", "torch": "2.14.1"},
        "cells": {name: [f"{model}+{method}@{keep}__{name}__0123456789ab"] for name in given},
    }
    return Entry(**(made | more))


def board(*entries: Entry, title: str = "Leaderboard", notes: list[str] | None = None) -> Leaderboard:
    """A leaderboard of entries in the order given."""
    names = dict.fromkeys(name for each in entries for name in each.scores)
    columns = [
        Benchmark(name=name, modality="video" if "Video" in name else "image", decimals=2 if "Video" in name else 1)
        for name in names
    ]
    return Leaderboard(
        title=title,
        profile="micro",
        experiments=["table3"],
        benchmarks=columns,
        entries=list(entries),
        notes=notes or ["A note."],
    )
