"""Every method, once: the contract tests run over this table. A new method is one row."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest


class Row(NamedTuple):
    """One method as the tests run it."""

    name: str
    fields: dict[str, Any] = {}
    scores: bool = True
    """Whether it looks at the content: then a token on which the answer hangs must survive."""
    first_cut: int = 0
    """Index of the first decoder layer that works on fewer tokens."""


ROWS = (
    Row("random", scores=False),
    Row("uniform", scores=False),
    Row("first_layer_attention"),
    Row("relevance"),
    Row("relevance", {"head_weights": "mean"}),
    Row("cnn"),
    Row("fastv", first_cut=3),
    Row("fastv", {"layer": 2}, first_cut=1),
)


def _id(row: Row) -> str:
    return "-".join([row.name, *(f"{value}" for value in row.fields.values())])


METHODS = pytest.mark.parametrize("row", ROWS, ids=_id)
SCORING_METHODS = pytest.mark.parametrize("row", [row for row in ROWS if row.scores], ids=_id)
EVERY_METHOD = pytest.mark.parametrize("row", (Row("vanilla", scores=False), *ROWS), ids=_id)
"""With vanilla, where keep is 1."""
