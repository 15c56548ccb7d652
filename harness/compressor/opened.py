"""A training set as training, evaluation and ablations take it: whose it is, what it is, and its two sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.compressor.batches import teachable
from harness.compressor.dataset import Pair, TrainingSet
from harness.compressor.split import split
from harness.compressor.train import Media
from model_wrappers.errors import UserError


@dataclass(frozen=True)
class Data:
    """An opened training set.

    mllm: name of the model whose samples they are. relevance: fields of the method `relevance` that made them.
    manifest: dataset.json. counts: how many samples were asked, kept, and not kept for each reason.
    """

    folder: Path
    mllm: str
    media: Media
    relevance: dict[str, Any]
    manifest: dict[str, Any] = field(repr=False)
    counts: dict[str, int] = field(repr=False)
    pairs: list[Pair] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Data:
        """Reads all of it.

        Raises:
            UserError: no training set, a damaged one, or one without samples.
        """
        found = TrainingSet.open(folder)
        manifest = found.manifest
        try:
            mllm, media, relevance = manifest["model"]["name"], manifest["media"], dict(manifest["relevance"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'dataset.json'} does not say model, media and relevance ({error})") from error
        if media not in ("video", "image"):
            raise UserError(f"{folder / 'dataset.json'}: media is {media!r}, allowed are video, image")
        counts = found.counts()
        if not counts["kept"]:
            raise UserError(f"{folder} holds no samples that the model answered right ({counts['asked']} were asked)")
        return cls(folder, mllm, media, relevance, manifest, counts, found.pairs())

    @cached_property
    def sides(self) -> tuple[list[Pair], list[Pair]]:
        """The training samples and the held-out ones, of those with a label. UserError as of `split`."""
        return split(teachable(self.pairs))

    def about(self) -> dict[str, Any]:
        """For a card: what the samples are, in JSON."""
        model = self.manifest["model"]
        origin: dict[str, Any] = {
            name: model[name] for name in ("hub", "revision", "files", "settings") if name in model
        }
        named: dict[str, Any] = {
            name: self.manifest[name] for name in ("max_visual", "judge", "seed") if name in self.manifest
        }
        sources = [
            {name: each[name] for name in ("name", "asked") if name in each}
            for each in self.manifest.get("sources", [])
        ]
        return {
            "folder": self.folder.name,
            "model": {"name": self.mllm, **origin},
            "relevance": self.relevance,
            **named,
            "sources": sources,
            "questions": self.counts,
        }
