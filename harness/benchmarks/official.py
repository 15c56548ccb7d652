"""What the official metrics share: means by group, exact match, and answers read back from the kit's result file."""

from __future__ import annotations

import string
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

from model_wrappers.errors import UserError

FAILED = "Failed to obtain answer"
"""How the kit marks a sample that it could not ask."""


def grouped(scores: Mapping[Any, float], groups: Mapping[Any, Iterable[str]], scale: float) -> dict[str, float]:
    """Mean score, times `scale`, over everything (`overall`) and over the samples of each group."""
    members: dict[str, list[float]] = {"overall": list(scores.values())}
    for index, names in groups.items():
        if index in scores:
            for name in dict.fromkeys(names):
                members.setdefault(name, []).append(scores[index])
    return {name: scale * sum(values) / len(values) for name, values in members.items() if values}


def exact_match(reply: str, references: Iterable[str]) -> bool:
    """Whether `reply` is one of `references`, but for letter case, blanks, outer punctuation and a leading article."""
    wanted = plain(reply)
    return wanted != "" and any(plain(reference) == wanted for reference in references)


def plain(text: str) -> str:
    """`text` as `exact_match` compares it."""
    words = text.casefold().strip(string.whitespace + string.punctuation.replace("=", "").replace("-", "")).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in {"a", "an", "the"} else words)


def answers_of(eval_file: str, indices: Collection[Hashable]) -> dict[Any, str]:
    """Replies by index from a result file of VLMEvalKit's own runner (xlsx or tsv), `None` and `N/A` left as text.

    For `vlmeval.run` only; the sweep scores from its own store. What the kit has already turned into a formula when it
    wrote an xlsx cannot be had back: set PRED_FORMAT=tsv there. Raises UserError when an index has no row or a sample
    failed: the kit's failure text is no answer.
    """
    import pandas as pd

    if eval_file.endswith(".xlsx"):
        table = pd.read_excel(eval_file, dtype={"prediction": str}, keep_default_na=False)
    elif eval_file.endswith(".tsv"):
        table = pd.read_csv(eval_file, sep="\t", dtype={"prediction": str}, keep_default_na=False)
    else:
        raise UserError(f"{eval_file}: the result file must end in .xlsx or .tsv")
    replies = {index: str(reply) for index, reply in zip(table["index"], table["prediction"], strict=True)}
    missing = [index for index in indices if index not in replies]
    if missing:
        raise UserError(f"{eval_file} has no row for index {missing[0]} ({len(missing)} missing)")
    failed = [index for index in indices if FAILED in replies[index]]
    if failed:
        raise UserError(f"{eval_file}: index {failed[0]} failed ({len(failed)} in all); run the inference again first")
    return replies
