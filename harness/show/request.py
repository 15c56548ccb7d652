"""What `retain show` was asked for, checked before any model is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.models import model_info
from harness.options import check_keeps
from model_wrappers.errors import UserError

KEEPS = (0.5, 0.25)
"""Shares of the visual tokens that the paper's figures keep."""


@dataclass(frozen=True)
class Request:
    """One question about one picture or video."""

    model: str
    question: str
    path: Path
    media: Literal["image", "video"]
    keeps: tuple[float, ...] = KEEPS
    frames: int | None = None
    """Frames of the video that the model is shown; None: as many as the model's own setting says."""

    @property
    def command(self) -> str:
        """The command that asks for this."""
        words = ["retain", "show", "--model", self.model, f"--{self.media}", str(self.path)]
        words += ["--question", self.question]
        for keep in self.keeps if self.keeps != KEEPS else ():
            words += ["--keep", str(keep)]
        return shlex.join(words if self.frames is None else [*words, "--frames", str(self.frames)])


def check(
    model: str,
    question: str,
    image: Path | None,
    video: Path | None,
    keeps: Sequence[float] = (),
    frames: int | None = None,
) -> Request:
    """The request, its file opened once.

    Args:
        model: a known name or the path of a checkpoint folder.
        question: the text that follows the picture or video.
        image, video: exactly one of them.
        keeps: shares of the visual tokens; one that is there twice counts once. None of them: `KEEPS`.
        frames: of a video.

    Raises:
        UserError: both an image and a video or neither, no question, a share outside (0, 1], frames of an image, an
            unknown model, or a file that is not there or cannot be read.
    """
    if (image is None) == (video is None):
        given = "neither is given" if image is None else "both are given"
        raise UserError(f"show takes one input, --image or --video; {given}")
    if not question.strip():
        raise UserError("--question is empty: write what the model is to be asked")
    check_keeps(keeps)
    if frames is not None and video is None:
        raise UserError("--frames goes with --video: an image has none")
    if frames is not None and frames < 1:
        raise UserError(f"--frames {frames}: allowed are whole numbers from 1")
    model_info(model)
    kept = tuple(dict.fromkeys(float(keep) for keep in keeps)) or KEEPS
    if image is not None:
        _open_image(image)
        return Request(model, question, image, "image", kept)
    assert video is not None
    _open_video(video)
    return Request(model, question, video, "video", kept, frames)


def _open_image(path: Path) -> None:
    from PIL import Image

    _is_file("image", path)
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # a broken file makes PIL raise many kinds
        raise UserError(f"--image {path} cannot be read as an image: {_first_line(error)}") from error


def _open_video(path: Path) -> None:
    import decord

    _is_file("video", path)
    try:
        decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)[0]
    except Exception as error:  # decord's own, and IndexError where there is no frame
        raise UserError(f"--video {path} cannot be read as a video") from error


def _is_file(option: str, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"--{option} {path}: there is no such file")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
