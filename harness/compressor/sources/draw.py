"""A seeded, balanced sample of the sources, and what was left out of it.

A sample's place is a digest of seed and id: the first N of a part are drawn, so a smaller limit asks some of what a
larger one asks, and a further source changes nothing about the others. Equally many come from each part of a source; a
part that has fewer is told, and no other part fills in for it.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.compressor.sources import Kind, Read, Sample, Source
from harness.compressor.sources.splits import TestSplits
from model_wrappers.errors import UserError

REFUSED = "refused, their video is in a test split"
REFUSED_PICTURE = "refused, their picture is in a benchmark"


@dataclass(frozen=True)
class Taken:
    """What one source gave.

    `asked`: samples drawn; `wanted`: that the mix wants of it (None: all); `available`: questions that could have been
    drawn; `left_out`: others by reason; `short`: by part, how many it lacks.
    """

    source: Source
    asked: int
    wanted: int | None
    available: int
    left_out: dict[str, int]
    short: dict[str, int] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """For people: what was found and drawn, and what lacks."""
        wanted = "all" if self.wanted is None else f"{self.wanted:,}"
        said = [
            f"{self.source.name} ({self.source.where}): {self.asked:,} of {self.available:,} questions, wanted {wanted}"
        ]
        for part, lacking in self.short.items():
            said.append(f"  short by {lacking:,}{f' in {part}' if part else ''}")
        said += [f"  {count:,} left out: {reason}" for reason, count in sorted(self.left_out.items())]
        return said


def choose(sources: list[Source], mix: Kind | None) -> list[Source]:
    """The sources of one kind of media, by default the one that is there.

    Raises:
        UserError: both kinds are there and `mix` does not say which, or the one that it names is not.
    """
    kinds = sorted({source.media for source in sources})
    if mix is None and len(kinds) > 1:
        named = [f"{source.name} ({source.media})" for source in sources]
        raise UserError(f"--data holds images and videos, {', '.join(named)}: choose with --mix image or --mix video")
    chosen = [source for source in sources if mix in (None, source.media)]
    if not chosen:
        raise UserError(f"--mix {mix}: --data holds no {mix}s, only {', '.join(source.name for source in sources)}")
    return chosen


def draw(
    sources: list[Source], tests: TestSplits, *, seed: int, limit: int | None = None
) -> tuple[list[Sample], list[Taken]]:
    """Samples in a random order in which every beginning is as mixed as the whole.

    Args:
        sources: of one kind of media.
        tests: whose videos and pictures are refused.
        seed: of the choice and the order.
        limit: at most so many of each source.

    Raises:
        UserError: a file is malformed, two samples have one id, or nothing is left.
    """
    drawn: list[tuple[str, Sample]] = []
    report = []
    for source in sources:
        wanted = source.amount if limit is None else min(limit, source.amount or limit)
        left_out: Counter[str] = Counter()
        short: dict[str, int] = {}
        asked = available = 0
        for part, share in zip(source.parts, _shares(wanted, len(source.parts)), strict=True):
            found, among, without = _drawn(source.parts[part], tests, share, seed)
            left_out += without
            drawn += found
            asked, available = asked + len(found), available + among
            if share is not None and len(found) < share and (source.amount is not None):
                short[part] = share - len(found)
        report.append(Taken(source, asked, wanted, available, dict(left_out), short))
    drawn.sort(key=lambda pair: pair[0])
    if not drawn:
        told = [sentence.strip() for taken in report for sentence in taken.sentences()]
        raise UserError(f"--data has no question that can be asked: {'; '.join(told)}")
    samples = [sample for _, sample in drawn]
    for name, count in Counter(sample.id for sample in samples).items():
        if count > 1:
            raise UserError(f"two samples have the id {name}; ids must be unique")
    return samples, report


def _shares(wanted: int | None, parts: int) -> list[int | None]:
    if wanted is None:
        return [None] * parts
    return [wanted // parts + (number < wanted % parts) for number in range(parts)]


def _drawn(
    read: Read, tests: TestSplits, share: int | None, seed: int
) -> tuple[list[tuple[str, Sample]], int, Counter[str]]:
    """What `_first` finds of a part, of how many, and what was left out.

    Only pictures that were drawn are decoded to be looked for in the benchmarks (a part may hold a million). Where one
    is there, the part is drawn from again without it.
    """
    refused: set[str] = set()
    while True:
        left_out: Counter[str] = Counter()
        usable = _usable(read(left_out), tests, refused, left_out)
        found, among = _first(usable, share, seed)
        shown = {sample.id for _, sample in found if tests.shows(sample)}
        if not shown:
            return found, among, left_out
        refused |= shown


def _usable(
    samples: Iterable[Sample], tests: TestSplits, refused: set[str], left_out: Counter[str]
) -> Iterator[Sample]:
    there: dict[Path, bool] = {}  # a video has many questions, an archive many pictures
    for sample in samples:
        path = sample.file.path
        if path not in there:
            there[path] = sample.file.exists()
        if tests.has(sample):
            left_out[REFUSED] += 1
        elif sample.id in refused:
            left_out[REFUSED_PICTURE] += 1
        elif there[path]:
            yield sample
        else:
            left_out[f"their {sample.media} is not there"] += 1


def _first(samples: Iterable[Sample], count: int | None, seed: int) -> tuple[list[tuple[str, Sample]], int]:
    """The `count` samples with the smallest digests (None: all), and among how many."""
    among = 0

    def keyed() -> Iterator[tuple[str, Sample]]:
        nonlocal among
        for sample in samples:
            among += 1
            yield _digest(seed, sample.id), sample

    found = list(keyed()) if count is None else heapq.nsmallest(count, keyed(), key=lambda pair: pair[0])
    return found, among


def _digest(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
