"""Uniformly fewer frames of a video: the baseline that asks what frames are worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from model_wrappers.methods.base import InputTransform

if TYPE_CHECKING:
    from model_wrappers.pictures import Picture


@dataclass(frozen=True)
class FewerFrames(InputTransform):
    """Of each video the middle frame of each of as many equal stretches as the budget has room for; not for images.

    Frame floor((i + 1/2) * T / t) for i = 0 .. t-1, of the T frames that the full prompt shows. Qwen2-VL makes visual
    tokens of two frames at a time, so there t is even. Of a prompt with images beside its video these stay. LLaVA-
    OneVision is told how many frames it sees and when; in a sweep its text tells of those that are left.
    """

    name: ClassVar[str] = "fewer_frames"
    media: ClassVar[frozenset[str]] = frozenset({"video"})

    def versions(self, pictures: Sequence[Picture]) -> Iterable[Sequence[Picture]]:
        shares = sorted({share for picture in pictures for share in picture.shares()})
        return [[picture.shortened(share) for picture in pictures] for share in shares]
