"""How close a compressor comes to the relevance it predicts, on held-out samples, beside what needs no training.

Of every sample and method, at keep 0.5, 0.25 and 0.1: the share of the tokens kept that relevance would keep, too
(`overlap`), and the share of all relevance that they have (`mass`); over all tokens Spearman's rank correlation with
relevance, and KL(label || prediction), the loss of paper eq. 3. Means over samples, with 95% intervals by
`harness.statistics`: whole groups (videos, images) are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.compressor.batches import Samples
from harness.compressor.dataset import Pair
from harness.compressor.train import best_device
from harness.statistics import Cell, Interval
from harness.statistics import Samples as Scored
from harness.statistics.bootstrap import Ratio, difference, interval, ratios
from harness.store import digest
from model_wrappers.compressor import Compressor, kl_loss, label
from model_wrappers.registry import method
from model_wrappers.selection import budget, top

KEEPS = (0.5, 0.25, 0.1)
OVERLAP, MASS = {keep: f"overlap@{keep:g}" for keep in KEEPS}, {keep: f"mass@{keep:g}" for keep in KEEPS}
SPEARMAN, KL = "spearman", "kl"
METRICS = (*OVERLAP.values(), SPEARMAN, KL, *MASS.values())
OURS, ATTENTION, RANDOM, CEILING = "cnn", "first_layer_attention", "random", "relevance"
"""The compressor; its input by itself; a draw from the sample's id; relevance itself, whose mass nothing exceeds."""


@dataclass(frozen=True)
class Score:
    """A mean over samples and its 95% interval; None of fewer than 10 groups."""

    value: float
    interval: Interval | None

    def ends(self) -> list[float | None]:
        """[mean, low, high]; low and high None without an interval."""
        return [self.value, *((self.interval.low, self.interval.high) if self.interval else (None, None))]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores by method and metric; `ahead`: by rival and metric, the compressor's mean less the rival's."""

    samples: int
    groups: int
    tokens: tuple[int, int]
    """The fewest and the most visual tokens of a sample."""
    scores: dict[str, dict[str, Score]]
    ahead: dict[str, dict[str, Score]]

    def content(self) -> dict[str, Any]:
        """JSON: for each score [mean, low, high], the ends null where there is no interval."""

        def plain(table: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, list[float | None]]]:
            return {name: {metric: score.ends() for metric, score in row.items()} for name, row in table.items()}

        return {
            "samples": self.samples,
            "groups": self.groups,
            "visual_tokens": list(self.tokens),
            "scores": plain(self.scores),
            "ahead": plain(self.ahead),
        }


def evaluate(net: Compressor, pairs: Sequence[Pair], *, zeroed: float = 0.5) -> Evaluation:
    """A compressor on samples, each with a relevance above 0 somewhere (`batches.teachable`); at least one.

    Args:
        zeroed: `label`'s, for KL alone.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, ATTENTION, RANDOM, CEILING)}
    for pair, prediction in zip(pairs, predictions(net, pairs), strict=True):
        relevance = pair.relevance.float()
        target = label(relevance.clamp_min(0), zeroed=zeroed)
        drawn = _random(pair)
        # As a distribution a random draw says nothing about the tokens: the uniform one.
        for name, scores, distribution in (
            (OURS, prediction, prediction),
            (ATTENTION, pair.attention.float(), pair.attention.float()),
            (RANDOM, drawn, torch.ones_like(drawn)),
            (CEILING, relevance, relevance.clamp_min(0)),
        ):
            found[name].append(
                {**agreement(scores, relevance), KL: float(kl_loss(target[None], _logs(distribution)[None]))}
            )
    means = {name: {metric: fmean(row[metric] for row in rows) for metric in METRICS} for name, rows in found.items()}
    draws = _draws(found, [pair.group for pair in pairs])
    lengths = [len(pair.relevance) for pair in pairs]
    return Evaluation(
        len(pairs),
        len({pair.group for pair in pairs}),
        (min(lengths), max(lengths)),
        {
            name: {metric: _score(value, draws[name].get(metric)) for metric, value in row.items()}
            for name, row in means.items()
        },
        {
            rival: {
                metric: _ahead(value - means[rival][metric], draws[OURS].get(metric), draws[rival].get(metric))
                for metric, value in means[OURS].items()
            }
            for rival in (ATTENTION, RANDOM)
        },
    )


def predictions(net: Compressor, pairs: Sequence[Pair]) -> list[Tensor]:
    """Of each pair the probabilities [N_v] float32 on the CPU that the network gives."""
    device, samples = best_device(), Samples(pairs)
    net = net.to(device).eval()
    found: list[Tensor] = [torch.empty(0)] * len(pairs)
    with torch.no_grad():
        for batch in samples.batches(range(len(pairs)), device):
            for row, probabilities in zip(batch.rows, net(batch.attention, batch.mask).cpu(), strict=True):
                found[row] = probabilities[: len(pairs[row].attention)]
    return found


def agreement(scores: Tensor, relevance: Tensor) -> dict[str, float]:
    """Overlap and mass at each keep, and Spearman, of scores [N_v] with relevance [N_v] of one sample.

    Tokens are counted and chosen by `model_wrappers.selection`. Mass takes negative relevance for 0.
    """
    mass = relevance.clamp_min(0)
    found = {SPEARMAN: spearman(scores, relevance)}
    for keep in KEEPS:
        k = budget(keep, len(relevance))
        kept, wanted = top(scores, k), top(relevance, k)
        found[OVERLAP[keep]] = float(torch.isin(kept, wanted).sum()) / k
        found[MASS[keep]] = float(mass[kept].sum() / mass.sum())
    return found


def spearman(one: Tensor, other: Tensor) -> float:
    """Correlation of the ranks of two [N] tensors, equal values sharing their mean rank; 0 where one is constant."""
    first, second = (_ranks(values.numpy()) for values in (one, other))
    first, second = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / spread if spread else 0.0


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _random(pair: Pair) -> Tensor:
    """What the method `random` draws for this sample."""
    prompt: Any = SimpleNamespace(sample_id=pair.id, n_visual=len(pair.relevance), visual=pair.relevance)
    return method(RANDOM).score(None, prompt)  # type: ignore[attr-defined]


def _logs(distribution: Tensor) -> Tensor:
    """Logarithms of what is not negative, made to sum to 1; of 0 that of the smallest number, so that KL is finite."""
    tiny = torch.finfo(torch.float32).tiny
    return (distribution / distribution.sum().clamp_min(tiny)).clamp_min(tiny).log()


def _draws(found: Mapping[str, Sequence[Mapping[str, float]]], groups: Sequence[str]) -> dict[str, dict[str, Ratio]]:
    """By method and metric the mean in each resample of the groups, in percent of 1; {} of too few groups."""
    names, many = digest(list(groups)), len(groups)

    def cell(values: Sequence[float]) -> Cell:
        runs = Scored(tuple(values), tuple(groups), ("",) * many, (0.0,) * many, 1.0)
        return Cell(fmean(values), many, many, names, runs=(runs,))

    one = {metric: cell([1.0] * many) for metric in METRICS}  # a preservation is a ratio: here to a score of 1
    rows = [one, *({metric: cell([row[metric] for row in rows]) for metric in METRICS} for rows in found.values())]
    return dict(zip(found, ratios(rows, [None, *(0 for _ in found)])[1:], strict=True))


def _score(value: float, drawn: Ratio | None) -> Score:
    return Score(value, None if drawn is None else _share(interval([drawn])))


def _ahead(value: float, ours: Ratio | None, theirs: Ratio | None) -> Score:
    ends = difference([ours], [theirs]) if ours is not None and theirs is not None else None
    return Score(value, None if ends is None else _share(ends))


def _share(percent: Interval) -> Interval:
    return Interval(percent.low / 100, percent.high / 100)
