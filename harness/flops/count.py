"""What one method at one keep costs on one prompt: from its plan alone, in both conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.flops import paper
from model_wrappers.errors import UserError
from model_wrappers.methods.base import InputTransform, Method
from model_wrappers.shape import PromptSize, Shape, Tower


@dataclass(frozen=True)
class Exact:
    """Operations of all matrix products of a prefill, by part, a multiply-add as two (see `model_wrappers.shape`).

    vision: encoder and projector, None where nobody knows them or what they are given. decoder: all layers, text tokens
    included. head: on the last token. scoring: what choosing adds; None where the method does not say.
    """

    vision: float | None
    decoder: float
    head: float
    scoring: float | None

    @property
    def total(self) -> float | None:
        """All parts; None where one of them is unknown."""
        if self.vision is None or self.scoring is None:
            return None
        return self.vision + self.decoder + self.head + self.scoring


@dataclass(frozen=True)
class Count:
    """What a plan costs.

    worked: visual tokens that each decoder layer works on. held: those that its KV cache holds after the prefill.
    equivalent_tokens: the mean of `worked`. share: that of the prompt's visual tokens. paper: operations by arXiv
    2506.01097, eq. 4 to 6, a multiply-add as one; None where its convention has no term for the method. exact: see
    `Exact`. kv_bytes: of the visual tokens held.
    """

    worked: tuple[int, ...]
    held: tuple[int, ...]
    equivalent_tokens: float
    share: float
    paper: float | None
    exact: Exact
    kv_bytes: int


class UnknownInput(UserError):
    """What a method makes of an input does not follow from what is said of it. The sentence is the reason alone."""


def count(shape: Shape, method: Method, keep: float, prompt: PromptSize) -> Count:
    """Counts a method's plan for a prompt. Nothing is loaded and nothing is run.

    Raises UserError where the method cannot cut so many layers, or so few pictures cannot give that many tokens;
    UnknownInput where it makes the input cheaper, and what it makes of this one is not known.
    """
    decoder, cuts = shape.decoder, keep < 1
    seen = (shape.tower, prompt) if shape.tower else None
    if shape.tower and cuts:
        seen = method.encoded(shape.tower, prompt, keep)
    if isinstance(method, InputTransform):
        if seen is None:
            raise UnknownInput(_unknown(shape, prompt))
        worked = held = [seen[1].visual] * decoder.layers  # every layer gets all that is made of the input
    else:
        worked = method.counts(decoder.layers, keep, prompt.visual)
        held = method.held(decoder.layers, keep, prompt.visual)
    return Count(
        worked=tuple(worked),
        held=tuple(held),
        equivalent_tokens=fmean(worked),
        share=fmean(worked) / prompt.visual,
        paper=by_paper(shape, method, prompt.visual, worked),
        exact=Exact(
            vision=None if seen is None else _vision(*seen, decoder.hidden),
            decoder=decoder.forward(worked, prompt.text),
            head=decoder.head(1),
            scoring=method.scoring_flops(shape, prompt, keep) if cuts else 0.0,
        ),
        kv_bytes=shape.kv_bytes(held),
    )


def _unknown(shape: Shape, prompt: PromptSize) -> str:
    said = f"{prompt.visual} visual tokens in {prompt.pictures} pictures"
    if shape.tower is not None and shape.tower.tiling is not None and prompt.media == "image" and prompt.size is None:
        return f"what is made of an image in tiles does not follow from {said}, but from its size, see --size"
    return f"nobody says what is made of {said}"


def _vision(tower: Tower, seen: PromptSize, out: int) -> float:
    """Operations of the vision encoder and the projector, to states of width `out`, on what they are given."""
    if (most := tower.most(seen.pictures)) is not None and seen.visual > most:
        raise UserError(
            f"pictures={seen.pictures} give {most} visual tokens at most, not {seen.visual}: say how many tiles or "
            "frames the vision encoder sees"
        )
    return tower.encoder(seen.visual, seen.pictures) + tower.projector(seen.visual, seen.pictures, out)


def by_paper(shape: Shape, method: Method, n_visual: int, worked: Sequence[float]) -> float | None:
    """Operations by the paper's convention where the i-th layer works on `worked[i]` of `n_visual` visual tokens: the
    language model's, and the compressor's where the method has one. None where it has no term for the method.
    """
    added = method.paper_flops(shape, n_visual)
    return None if added is None else paper.language_model(worked, shape.decoder) + added
