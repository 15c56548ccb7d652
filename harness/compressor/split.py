"""Which samples a compressor is trained on, and which it never sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from harness.compressor.dataset import Pair
from model_wrappers.errors import UserError

ONE_IN = 10
"""One group in ONE_IN is held out."""


def held_out(group: str) -> bool:
    """Whether a group (a video or image) is held out.

    Decided by the digest of its name: the same in every data folder, for every seed, and whatever is collected later.
    """
    return _number(group) % ONE_IN == 0


def split(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """The training samples and the held-out ones, each in the order of `pairs`.

    All samples of a group are on one side. Where so few groups are there that a side would be empty, the group of the
    lowest digest is held out, or the one of the highest is not.

    Raises:
        UserError: fewer than two groups.
    """
    groups = sorted({pair.group for pair in pairs}, key=_number)
    if len(groups) < 2:
        raise UserError(
            f"{len(pairs)} samples about {len(groups)} videos or images: a compressor needs two or more, one of them "
            "held out"
        )
    out = {group for group in groups if held_out(group)} or {groups[0]}
    out -= {groups[-1]} if len(out) == len(groups) else set()
    return [pair for pair in pairs if pair.group not in out], [pair for pair in pairs if pair.group in out]


def _number(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()[:8], "big")
