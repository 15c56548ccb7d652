"""Questions about a scene, their answers, their wrong options, and the cells that they are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.micro.scenes import COLORS, DIRECTIONS, KINDS, Scene, Sight, Thing

PARTS = ("first", "second", "third", "fourth")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
REGIONS = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)

DOMAINS: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "kind": KINDS,
    "part": (*PARTS, "none"),
    "region": REGIONS,
    "direction": (*DIRECTIONS, "nowhere"),
    "yesno": ("yes", "no"),
}
"""Every answer of a kind. The last one of `part` and `direction` is only ever a wrong option, the fifth one."""

TOPICS: dict[str, str] = {
    "color": "color",
    "kind": "kind",
    "where": "region",
    "when": "part",
    "before": "color",
    "after": "color",
    "motion": "direction",
    "yesno": "yesno",
}
"""What may be asked, and the domain of its answer. `when`, `before`, `after`, `motion` need what happens over time."""

TEMPORAL = frozenset({"when", "before", "after", "motion"})


@dataclass(frozen=True)
class Question:
    """A question, lower case and without a question mark, with its answer and the sights that it is about."""

    topic: str
    text: str
    answer: str
    evidence: tuple[Sight, ...]

    def options(self, rng: np.random.Generator, count: int) -> list[str]:
        """`count` different options in random order, the answer among them."""
        domain = [value for value in DOMAINS[TOPICS[self.topic]] if value != self.answer]
        if count <= 4 and self.topic in ("when", "motion"):
            domain = domain[:-1]
        wrong = [domain[i] for i in rng.permutation(len(domain))[: count - 1]]
        options = [self.answer, *wrong]
        return [options[i] for i in rng.permutation(len(options))]


def region(sight: Sight, side: int) -> str:
    """The ninth of the picture that the sight is in."""
    return f"{ROWS[sight.row * 3 // side]} {COLUMNS[sight.col * 3 // side]}"


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Every question that the scene answers without doubt, in random order."""
    found = [question for thing in scene.things for question in _about(scene, thing, rng)]
    return [found[i] for i in rng.permutation(len(found))]


def _about(scene: Scene, thing: Thing, rng: np.random.Generator) -> Iterator[Question]:
    kind, sights = thing.kind, thing.sights
    if thing.behaviour != "changes":
        color = sights[0].color
        yield Question("color", f"what color is the {kind}", color, sights)
        if sum(other.color == color for other in scene.sights) == len(sights):
            yield Question("kind", f"what shape is {color}", kind, sights)
        asked = color
        if rng.random() < 0.5:
            colors = list(COLORS)
            asked = colors[(colors.index(color) + int(rng.integers(1, len(colors)))) % len(colors)]
        yield Question("yesno", f"is the {kind} {asked}", "yes" if asked == color else "no", sights)
    if thing.behaviour != "moves":
        yield Question("where", f"where is the {kind}", region(sights[0], scene.side), sights)
    if scene.segments > 1 and len(sights) == 1:
        yield Question("when", f"in which part of the video is the {kind}", PARTS[sights[0].segment], sights)
    if thing.behaviour == "changes":
        yield Question("before", f"what color is the {kind} before it changes", sights[0].color, sights)
        yield Question("after", f"what color is the {kind} after it changes", sights[1].color, sights)
    if thing.behaviour == "moves":
        dy, dx = np.sign(sights[1].row - sights[0].row), np.sign(sights[1].col - sights[0].col)
        way = next(name for name, step in DIRECTIONS.items() if step == (dy, dx))
        yield Question("motion", f"which way does the {kind} move", way, sights)
