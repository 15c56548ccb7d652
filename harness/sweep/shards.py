"""What is left of an experiment, dealt out in shards to workers of which each keeps one model open.

A shard is some samples of one benchmark for one model, with every method and keep that they lack, so that a sample is
still decoded and encoded once. Shards shrink towards the end (guided self-scheduling, Polychronopoulos and Kuck, 1987):
no worker has a long one left when the others have none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

from harness.store import Index

Group = tuple[str, str]
"""A model and a benchmark."""
Wanted = dict[Index, tuple[str, ...]]
"""By sample, the ids of the cells that lack an answer to it."""

PARTS = 4
"""A shard is this part of a worker's share of what is left: the last shards have one sample."""
LARGEST = 64
"""Samples of a shard at most. Between two shards a worker waits for one message and for one sample to be decoded."""


@dataclass(frozen=True)
class Shard:
    """Samples of one model and benchmark for one worker; `deaths`: how many workers ended while they had them."""

    model: str
    benchmark: str
    wanted: Wanted
    deaths: int = 0

    @property
    def group(self) -> Group:
        """Its model and benchmark."""
        return self.model, self.benchmark


class Pile:
    """What is left to be dealt.

    `todo`: by group, how many answers are lacking. `lacking(group)` tells which; it is asked once a group, when the
    first shard of it is dealt.
    """

    def __init__(self, todo: Mapping[Group, int], lacking: Callable[[Group], Wanted]) -> None:
        self.lacking = lacking
        self.answers = Counter({group: count for group, count in todo.items() if count})
        self._opened: dict[Group, Wanted] = {}
        self._again: list[Shard] = []

    def __bool__(self) -> bool:
        return bool(self._again) or any(self.answers.values())

    @property
    def groups(self) -> list[Group]:
        """The groups of which something is left."""
        again = {shard.group for shard in self._again}
        return [group for group in self.answers if self.answers[group] or group in again]

    def left(self, model: str) -> int:
        """How many answers of a model are not dealt."""
        again = sum(_answers(shard.wanted) for shard in self._again if shard.model == model)
        return again + sum(count for group, count in self.answers.items() if group[0] == model)

    def deal(self, held: Group | None, others: Counter[Group], crew: int, worth: Callable[[str], bool]) -> Shard | None:
        """The next shard of a worker; None where there is none for it.

        Args:
            held: what the worker answered last: it has the model open, and the benchmark.
            others: by group, how many other workers answer it or did so last.
            crew: how many workers there are to be in all.
            worth: whether a worker should open this model to help with what is left of it.
        """
        models = Counter[str]()
        for group, count in others.items():
            models[group[0]] += count
        candidates = list(dict.fromkeys(model for model, _ in self.groups))
        model = held[0] if held and held[0] in candidates else None
        if model is None:
            model = max(
                filter(worth, candidates), key=lambda model: self.left(model) / (1 + models[model]), default=None
            )
        if model is None:
            return None
        if again := next((shard for shard in self._again if shard.model == model), None):
            self._again.remove(again)
            return again
        while groups := [group for group in self.groups if group[0] == model]:
            group = held if held in groups else max(groups, key=lambda group: self.answers[group] / (1 + others[group]))
            assert group
            share = min(self.left(model) / (1 + models[model]), sum(map(self.left, candidates)) / crew)
            if wanted := self._cut(group, math.ceil(share / PARTS)):
                return Shard(*group, wanted)
        return self.deal(held, others, crew, worth)  # nothing of this model was lacking any more

    def put_back(self, shard: Shard) -> None:
        """What a dead worker left, to be dealt before anything new: in halves, so that the sample that ends every
        worker, if there is one, takes ever fewer others with it.
        """
        samples = list(shard.wanted.items())
        middle = (len(samples) + 1) // 2
        for part in (samples[:middle], samples[middle:]):
            if part:
                self._again.append(Shard(*shard.group, dict(part), shard.deaths + 1))

    def drop(self, model: str | None = None) -> list[Group]:
        """Forgets what is left of a model, or of all; returns the groups that it was of."""
        dropped = [group for group in self.groups if model in (None, group[0])]
        for group in dropped:
            self.answers[group] = 0
        self._again = [shard for shard in self._again if shard.group not in dropped]
        return dropped

    def has(self, group: Group) -> bool:
        """Whether something of a group is left."""
        return group in self.groups

    def _cut(self, group: Group, size: int) -> Wanted:
        """Samples of a group that lack at least `size` answers together, if so many are left."""
        if group not in self._opened:
            self._opened[group] = self.lacking(group)
            self.answers[group] = _answers(self._opened[group])
        waiting, taken, count = self._opened[group], Wanted(), 0
        for index, cells in islice(waiting.items(), LARGEST):
            if count >= size:
                break
            taken[index] = cells
            count += len(cells)
        for index in taken:
            del waiting[index]
        self.answers[group] -= count
        return taken


def _answers(wanted: Wanted) -> int:
    return sum(len(cells) for cells in wanted.values())
