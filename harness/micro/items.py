"""One question of a micro edition."""

from __future__ import annotations

from dataclasses import dataclass

from harness.micro.prompts import LETTERS
from harness.micro.questions import Question
from harness.micro.scenes import Scene

QUESTIONS = 100
"""Questions an edition."""
PER_MEDIUM = 2
"""Questions a video or image."""


@dataclass(frozen=True)
class Item:
    """A question about a video or image (`medium` is its id). `options` is empty for an open question."""

    medium: str
    scene: Scene
    question: Question
    text: str
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        return LETTERS[self.options.index(self.question.answer)]
