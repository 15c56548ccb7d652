"""Asks the model: its answer from all visual tokens, their scores by each method, and its answers from those kept."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.frames import shown
from harness.models import open_model
from harness.show.place import Floats
from harness.show.request import Request
from model_wrappers import registry
from model_wrappers.errors import SampleError, UserError
from model_wrappers.methods.base import Method, Scorer
from model_wrappers.prompt import VisualPrompt

Picture = NDArray[np.uint8]
"""[H, W, 3]."""

GUIDES = {
    "relevance": "Relevance to that answer",
    "cnn": "Compressor's prediction of relevance",
    "first_layer_attention": "First-layer attention, the compressor's input",
}
"""Methods that are shown, and the titles of their maps."""
LONGEST_SIDES = {1: 960, 16: 480}
"""Pixels along a side of a picture that is drawn, where there are up to so many; the model sees them as they are."""


@dataclass(frozen=True, eq=False)
class Cut:
    """An answer from few visual tokens."""

    keep: float
    kept: NDArray[np.int64]
    """[k] sorted: indices among the visual tokens."""
    answer: str


@dataclass(frozen=True, eq=False)
class Guide:
    """One method on the prompt: its scores and answers, or the sentence that says why there are none."""

    method: str
    title: str
    scores: Floats | None
    """[N_v]."""
    cuts: tuple[Cut, ...]
    lacking: str | None = None


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that is drawn."""

    request: Request
    pictures: list[Picture]
    """As the processor was given them, of one size, shrunk to `LONGEST_SIDES`: the image, or the video's frames."""
    extents: Floats
    """[N_v, 6], `VisualPrompt.extents`."""
    answer: str
    """From all visual tokens."""
    guides: tuple[Guide, ...]

    @property
    def n_visual(self) -> int:
        """N_v, the number of visual tokens."""
        return len(self.extents)


def gather(request: Request) -> Gathered:
    """Loads the model and asks it.

    Raises:
        UserError: the model cannot be loaded, cannot be asked this, or does not say what its visual tokens show.
    """
    settings = {} if request.frames is None else {"nframe": request.frames}
    model = open_model(request.model, **settings)
    try:
        return ask(model, request)
    finally:
        model.close()


def ask(model: Any, request: Request) -> Gathered:
    """`gather` with a model that is loaded."""
    try:
        with tempfile.TemporaryDirectory(prefix="retain-show-") as folder, _watched(model) as watched:
            message = [
                *shown(model, request.media, request.path, Path(folder)),
                {"type": "text", "value": request.question},
            ]
            prompt = model.prepare(message)
    except SampleError as error:
        raise UserError(" ".join(str(error).split())) from error
    if prompt.extents is None:
        raise UserError(f"the class of {request.model} does not tell what its visual tokens show: no map can be drawn")
    prompt.media = request.media  # VILA, which is given frames as images, cannot know
    answer, _ = model.answer(prompt, "vanilla", 1.0)  # greedy: it is also the response that relevance explains
    guides = tuple(_guide(model, prompt, name, request.keeps) for name in GUIDES)
    longest = next((side for count, side in LONGEST_SIDES.items() if len(watched.pictures) <= count), 240)
    pictures = [_picture(given, longest) for given in watched.pictures]
    return Gathered(request, pictures, prompt.extents.cpu().numpy(), printable(answer), guides)


def _guide(model: Any, prompt: VisualPrompt, name: str, keeps: tuple[float, ...]) -> Guide:
    method = registry.method(name)
    try:
        scores = _scores(model.model, prompt, method)
    except UserError as error:  # no compressor for this model and media
        return Guide(name, GUIDES[name], None, (), str(error).replace(f"{Path.cwd()}/", ""))
    cuts = []
    for keep in keeps:
        answer, record = model.answer(prompt, method, keep)
        cuts.append(Cut(keep, record.kept.cpu().numpy(), printable(answer)))
    return Guide(name, GUIDES[name], scores, tuple(cuts))


def _scores(model: Any, prompt: VisualPrompt, method: Method) -> Floats:
    """[N_v]; left where `answer` finds them, too, so that relevance is computed once."""
    assert isinstance(method, Scorer)
    if method not in prompt.cache:
        prompt.cache[method] = method.score(model, prompt).detach().float()
    return prompt.cache[method].cpu().numpy()


class _Watched:
    """A processor that remembers the pictures of its last call."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.pictures: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        images, videos = kwargs.get("images") or [], kwargs.get("videos") or []
        self.pictures = [*images, *(frame for video in videos for frame in video)]
        return self._processor(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


@contextmanager
def _watched(model: Any) -> Iterator[_Watched]:
    """The families read and sample media each in its own way: the frames that a model sees are known here only."""
    processor = model.processor
    model.processor = watched = _Watched(processor)
    try:
        yield watched
    finally:
        model.processor = processor


def _picture(given: Any, longest: int) -> Picture:
    """A PIL image, a [3, H, W] tensor or a [H, W, 3] array with values up to 255, as an array."""
    if isinstance(given, torch.Tensor):
        given = given.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    image = given if isinstance(given, Image.Image) else Image.fromarray(given)
    image = image.convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)  # never makes larger
    return np.asarray(image)


def printable(text: str) -> str:
    """A model's words without control characters, which neither a page nor a figure can show."""
    return re.sub(r"[^\S\n]", " ", "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)).strip()
