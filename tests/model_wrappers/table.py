"""Every method and every family, once: the contract tests run over these tables. A new method or family is one row."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.model_wrappers import literal
from tests.model_wrappers.literal import rounded
from tests.tiny import tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

LAYERS = 5
"""Decoder layers of every tiny model here."""


class Row(NamedTuple):
    """One method as the tests run it."""

    name: str
    fields: dict[str, Any] = {}
    scores: bool = True
    """Whether it looks at the language model's attention: then a token on which the answer hangs must survive."""
    first_cut: int = 0
    """Index of the first decoder layer that works on fewer tokens."""
    positions: str = "own"
    """Its default."""
    merges: bool = False
    """Whether the tokens left hold more than they did."""
    trims: int = 0
    """Index of the layer at whose input it cuts what it merged, and the caches of the layers before it; 0: none."""
    exact: bool = True
    """Whether as many tokens are left as `counts` says."""
    own_counts: Callable[[float, int], list[int]] | None = None
    """`counts` where the one rounding rule and one cut do not say it."""
    single: str = "image"
    """A prompt of `conftest.PROMPTS` with one picture, that it is defined for."""

    def counts(self, keep: float, visual: int) -> list[int]:
        """Visual tokens in each of LAYERS layers, of N_v at a keep, by hand."""
        if self.own_counts is not None:
            return self.own_counts(keep, visual)
        return [visual] * self.first_cut + [rounded(keep, visual)] * (LAYERS - self.first_cut)


def pyramiddrop_counts(keep: float, visual: int) -> list[int]:
    """Cuts at 1/4, 1/2 and 3/4 of five layers: 1.25, 2.5 and 3.75, rounded."""
    shares = (keep ** (1 / 3), keep ** (1 / 3), keep ** (2 / 3), keep)
    return [visual, *(rounded(share, visual) for share in shares)]


def sparsevlm_counts(keep: float, visual: int) -> list[int]:
    """Cuts at 1, 2 and 3; behind each the tokens kept, and one cluster for each ten of 30% of those dropped."""
    counts = [visual]
    for count in literal.sparsevlm_plan(LAYERS, keep, visual).values():
        kept = min(count, counts[-1] - 1)
        counts.append(kept + int((int((counts[-1] - kept) * 0.3) + 1) / 10) + 1)
    return [*counts, counts[-1]]


def dart_counts(keep: float, visual: int) -> list[int]:
    """Four visual pivots, and what eight pivots take."""
    return [visual] * 2 + [4 + 8 * int(visual * keep / 8)] * 3


ROWS = (
    Row("random", scores=False),
    Row("uniform", scores=False),
    Row("first_layer_attention"),
    Row("relevance"),
    Row("relevance", {"head_weights": "mean"}),
    Row("cnn"),
    Row("fastv", first_cut=3),
    Row("visionzip", scores=False, positions="renumber", merges=True),
    Row(
        "prunevid", {"least": 2}, scores=False, positions="renumber", merges=True, trims=2, exact=False, single="video"
    ),
    Row("prunevid", {"alpha": 1.0}, scores=False, positions="renumber", merges=True, exact=False, single="video"),
    Row("fastvid", scores=False, merges=True, exact=False, single="video"),
    Row("fastv", {"layer": 2}, first_cut=1),
    Row("pyramiddrop", first_cut=1, positions="renumber", own_counts=pyramiddrop_counts),
    Row("sparsevlm", first_cut=1, positions="renumber", own_counts=sparsevlm_counts),
    Row("divprune", scores=False, positions="renumber"),
    Row("dart", first_cut=2, own_counts=dart_counts),
)


def _id(row: Row) -> str:
    return "-".join([row.name, *(f"{value}" for value in row.fields.values())])


METHODS = pytest.mark.parametrize("row", ROWS, ids=_id)
SCORING_METHODS = pytest.mark.parametrize("row", [row for row in ROWS if row.scores], ids=_id)
EVERY_METHOD = pytest.mark.parametrize("row", (Row("vanilla", scores=False), *ROWS), ids=_id)
"""With vanilla, where keep is 1."""
ROWS_OF_EACH_KIND = (ROWS[2], ROWS[6], ROWS[7], ROWS[8])
"""One that cuts at the input, one that cuts between layers, one that merges, one that merges and cuts again."""
A_CUTTER_OF_EACH_KIND = pytest.mark.parametrize("row", ROWS_OF_EACH_KIND, ids=_id)
A_CUTTER_OF_EACH_KIND_OF_EACH_MEDIUM = pytest.mark.parametrize(
    ("row", "media"),
    [(row, media) for row in ROWS_OF_EACH_KIND for media in ("image", "video") if media == "video" or not row.trims],
    ids=lambda part: _id(part) if isinstance(part, Row) else part,
)


class Family(NamedTuple):
    """One family as the tests run it."""

    name: str
    build: Callable[..., Path]
    """Saves its tiny checkpoint in a folder, with overrides of the text config."""
    image: str
    """What stands for an image in a prompt's text."""
    video: str | None
    """What stands for a video; None where its frames are given as images."""
    grids: dict[str, list[tuple[int, int, int]]]
    """`VisualPrompt.grids` of each prompt in `conftest.PROMPTS`, counted by hand."""
    rope: dict[str, Any] = {}
    """What its rope_parameters need besides a base."""
    planted: dict[str, Any] = {}
    """Overrides of the text config that give its attention biases."""

    def visual(self, media: str) -> int:
        """Visual tokens of a prompt in `conftest.PROMPTS`."""
        return sum(math.prod(grid) for grid in self.grids[media])


FAMILIES = [
    Family(
        "qwen2_vl",
        tiny_qwen2_vl,
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|vision_start|><|video_pad|><|vision_end|>",
        # 28 x 28 pixels a token, two frames at a time.
        {"image": [(1, 4, 5)], "mixed": [(1, 3, 4), (1, 2, 3), (3, 2, 2)], "video": [(3, 3, 3)], "text": []},
        {"mrope_section": [1, 1, 2]},
    ),
    Family(
        "llava_onevision",
        tiny_llava_onevision,
        "<image>\n",
        "<video>\n",
        # All three pictures fit 2 x 2 tiles best, whose 6 rows lose the padded first and last: 9 + 4 x (6 + 1 newline).
        # A frame has 2 x 2, and a video one newline.
        {"image": [(1, 1, 37)], "mixed": [(1, 1, 37), (1, 1, 37), (1, 1, 25)], "video": [(1, 1, 25)], "text": []},
    ),
    Family(
        "vila",
        partial(tiny_vila, patches=5),
        "<image>\n",
        None,
        # 5 x 5 patches are padded to 6 x 6, and 2 x 2 are a token; nothing stands between the six frames of a clip.
        {"image": [(1, 1, 9)], "mixed": [(1, 1, 9), (1, 1, 9), (1, 1, 54)], "video": [(1, 1, 54)], "text": []},
        planted={"attention_bias": True},
    ),
]


def only(*names: str) -> Any:
    """Runs a test on these families alone, where a family makes no difference."""
    rows = [family for family in FAMILIES if family.name in names]
    return pytest.mark.parametrize("family", rows, indirect=True, scope="session", ids=lambda family: family.name)


ONE_FAMILY = only("qwen2_vl")
