"""The one rounding rule: how many visual tokens a share of them is. Loads no torch."""

from __future__ import annotations

import math

from model_wrappers.errors import UserError


def check_keep(keep: float) -> float:
    """Returns `keep` as a float.

    Raises:
        UserError: unless 0 < keep <= 1.
    """
    if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 < keep <= 1:
        raise UserError(f"keep={keep!r}: the share of visual tokens to keep is a number above 0 and at most 1")
    return float(keep)


def budget(keep: float, n_visual: int) -> int:
    """Tokens to keep out of `n_visual`: max(1, floor(keep * n_visual + 0.5)), or 0 where there is none."""
    return min(n_visual, max(1, math.floor(keep * n_visual + 0.5))) if n_visual else 0
