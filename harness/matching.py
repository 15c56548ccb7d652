"""Equal budgets: the keep at which a method's layers work on as much, on average, as behind a cut at the LLM input.

FastV at 50% works on all visual tokens in its first layers, so it has more to look at than a method that cuts to 50%
before the language model. With `--match equivalent_tokens` a retention of 50% means for every method that an average
layer works on 50% of the visual tokens. It follows from `Method.counts`, whatever the method's kind.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Literal

from harness.flops import shape_of
from model_wrappers.methods.base import Method
from model_wrappers.registry import method as made

if TYPE_CHECKING:
    from harness.experiments import Row
    from harness.plan import Plan

Match = Literal["equivalent_tokens"]
"""What is made equal between the methods of one retention."""
MATCHED = "-matched"
"""What the name of an experiment ends in where it is."""
TOKENS = 1_000_000
"""Visual tokens of the prompt that shares are read off: rounding to whole tokens is far below `CLOSE`."""
CLOSE = 0.0005
"""Shares this close together are one budget."""
LEAST = 1 / TOKENS


def share(method: Method, n_layers: int, keep: float) -> float:
    """Visual tokens that an average layer works on, of all."""
    return fmean(method.counts(n_layers, keep, TOKENS)) / TOKENS


def matched_keep(method: Method, n_layers: int, retention: float) -> float | None:
    """The keep at which an average of `n_layers` layers works on `retention` of the visual tokens; None: there is none.

    A keep that does so as it is comes back unchanged, so a method that cuts at the LLM input has the cells it always
    has. Others are rounded to 6 digits. Raises UserError where the method cannot cut so many layers.
    """
    if abs(share(method, n_layers, retention) - retention) <= CLOSE:
        return retention
    low, high = LEAST, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if share(method, n_layers, middle) < retention else (low, middle)
    found = round(high, 6)
    return found if found > LEAST and abs(share(method, n_layers, found) - retention) <= CLOSE else None


def keep_for(match: Match | None, method: Method, model: str, retention: float) -> float | None:
    """The keep that an experiment's `match` makes of a retention for one model; the retention itself without one."""
    return retention if match is None else matched_keep(method, shape_of(model).decoder.layers, retention)


def chosen(plan: Plan) -> list[str]:
    """What a reader of a matched table must know: keeps other than the retention, one sentence for each."""
    from harness.tables.rows import ratio

    if plan.experiment.match is None:
        return []
    found = ["Matched equivalent tokens: at each retention an average layer works on that share of the visual tokens."]
    keeps: dict[tuple[str, float, float], list[str]] = {}
    for _, row, retention, cells in plan.rows():
        if cells and cells[0].keep != retention:
            keeps.setdefault((_label(row), retention, cells[0].keep), []).append(cells[0].settings["model"]["name"])
    for (label, retention, keep), models in keeps.items():
        found.append(f"{label} keeps {ratio(keep)} at its cut for {ratio(retention)} ({', '.join(models)}).")
    return found


def impossible(plan: Plan) -> list[str]:
    """The rows of a matched table that no keep brings to their budget, one sentence for each; they show dashes."""
    from harness.tables.rows import ratio

    found = []
    for model, row, retention, _ in plan.rows():
        method = made(row.method, **row.fields)
        if keep_for(plan.experiment.match, method, model, retention) is None:
            least = share(method, shape_of(model).decoder.layers, LEAST)
            found.append(
                f"{_label(row)} at {ratio(retention)} on {plan.name_of(model)} is left out: no keep brings an average "
                f"layer to that share of the visual tokens, the least is {ratio(least)}."
            )
    return found


def _label(row: Row) -> str:
    from harness.tables.rows import method_label

    fields = ", ".join(f"{name}={value}" for name, value in row.fields.items())
    return row.label or f"{method_label(row.method)}{f' ({fields})' if fields else ''}"
