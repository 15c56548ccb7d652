"""Uniformly fewer frames of a video: the baseline that asks what frames are worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from model_wrappers.methods.base import InputTransform
from model_wrappers.rounding import budget

if TYPE_CHECKING:
    from model_wrappers.pictures import Picture
    from model_wrappers.shape import PromptSize, Tower


@dataclass(frozen=True)
class FewerFrames(InputTransform):
    """Of each video the middle frame of each of as many equal stretches as come nearest to the budget; not for images.

    Frame floor((i + 1/2) * T / t) for i = 0 .. t-1, of the T frames that the full prompt shows. Qwen2-VL makes visual
    tokens of two frames at a time, so there t is even. Of a prompt with images beside its video these stay. LLaVA-
    OneVision is told how many frames it sees and when; in a sweep its text tells of those that are left.
    """

    name: ClassVar[str] = "fewer_frames"
    media: ClassVar[frozenset[str]] = frozenset({"video"})

    def versions(self, pictures: Sequence[Picture]) -> Iterable[Sequence[Picture]]:
        shares = sorted({share for picture in pictures for share in picture.shares()})
        return [[picture.shortened(share) for picture in pictures] for share in shares]

    def encoded(self, tower: Tower, prompt: PromptSize, keep: float) -> tuple[Tower, PromptSize] | None:
        each, newline = divmod(prompt.visual, prompt.pictures)  # a newline may end the video
        if not each:
            return None
        k = budget(keep, prompt.visual - newline)
        left = min(range(1, prompt.pictures + 1), key=lambda count: (abs(count * each - k), count))
        return tower, replace(prompt, visual=left * each + newline, pictures=left)
