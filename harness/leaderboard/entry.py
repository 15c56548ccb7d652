"""What a leaderboard holds: one entry a (model, method, keep), and the benchmarks that are its columns."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Modality = Literal["image", "video"]
Scope = Literal["image", "video", "all"]
SCOPES: tuple[Scope, ...] = ("image", "video", "all")


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no later changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Score(Strict):
    """One benchmark's headline number in its own unit; None where only `answered` of `total` samples have an answer.

    scored: "exact match" or the judge, where a benchmark can be scored in several ways; one way in a leaderboard.
    """

    value: float | None
    answered: int
    total: int
    scored: str = ""


class Preservation(Strict):
    """Mean over benchmarks of score / score of vanilla, in percent, and its 95% interval; None where not to be had.

    below: of `random` and `downsample`, those that are above it (`harness.leaderboard.floors`).
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    below: list[str] = []


class Entry(Strict):
    """One model under one method at one keep.

    parameters: numbers in the checkpoint's files. retention, realised: share of the visual tokens that was asked for,
    and that was kept at the method's last cut. equivalent_tokens: visual tokens that an average layer of the language
    model worked on; layer_share: the same as a share of the prompt's visual tokens. kv_share: of these, what an average
    layer's KV cache held. tflops: of the visual tokens, by the paper's eq. 4 to 6, its compressor's own cost included
    (see `harness.flops`). These six are means over samples.

    budget: `layer_share` in percent, one number for all entries that work on about as much
    (`harness.leaderboard.ranks`).
    rank: by preservation among the entries of this model, budget and set of benchmarks. mean_rank: of this method and
    keep over the models.

    samples: asked, over all benchmarks. failures: those without an answer, for a reason. run: names the cells (a digest
    of their ids), which are in `cells` by benchmark. date: of the last answer, UTC.
    """

    model: str
    method: str
    label: str
    fields: dict[str, bool | int | float | str | None]
    retention: float
    realised: float | None
    parameters: int | None
    equivalent_tokens: float | None
    layer_share: float | None
    kv_share: float | None
    tflops: float | None
    budget: int | None = None
    scores: dict[str, Score]
    preservation: dict[Scope, Preservation]
    rank: int | None = None
    mean_rank: float | None = None
    samples: int
    failures: int
    run: str
    date: str | None
    versions: dict[str, str]
    cells: dict[str, list[str]]

    @property
    def complete(self) -> bool:
        """Whether every sample of every benchmark has an answer and a score."""
        return all(score.value is not None for score in self.scores.values())

    @property
    def bound(self) -> bool:
        """Whether it is a bound on methods (it knows what a question is about) or none (vanilla), so has no rank."""
        return self.method in ("vanilla", "oracle", "anti-oracle")


class Benchmark(Strict):
    """One column: its name, what it shows, and the digits after the point that its scores are given with."""

    name: str
    modality: Modality
    decimals: int


class Leaderboard(Strict):
    """Entries in the order to be shown, their columns, and what a reader must know."""

    title: str
    profile: str
    experiments: list[str]
    benchmarks: list[Benchmark]
    entries: list[Entry]
    notes: list[str]
