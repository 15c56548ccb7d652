"""What an experiment file may say, as types. Structure only; names are checked against the registries in `loader`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from harness.judging.models import OPENAI, is_openai
from harness.matching import Match

Scalar = bool | int | float | str | None
WUPS = "NExT-QA-OE"
"""The benchmark whose official metric is WUPS."""

RULES = ("exact", "official")
"""Scoring without a judge: the reference's own words, or a benchmark's official metric where that needs no judge."""


def problem(message: str) -> PydanticCustomError:
    """A validation error whose text is exactly `message`; the loader puts file and key before it."""
    return PydanticCustomError("said", "{message}", {"message": message})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, bool | int | float | str) else value


def _keep(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= 1:
        raise problem(f"{value!r} is not a keep; allowed are numbers above 0 and up to 1")
    return float(value)


def _distinct(values: list[Any]) -> list[Any]:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise problem(f"{value!r} is given twice; each may stand once")
    return values


def _distinct_groups(groups: list[Group]) -> list[Group]:
    _distinct([name for group in groups for name in group.benchmarks])
    _distinct([group.key for group in groups])
    return groups


def _judge(value: Any) -> Any:
    if value == "default":
        return {}
    if value not in RULES and not isinstance(value, dict | Judge):
        raise problem(
            f"{value!r} is not a judge; allowed are 'exact', 'official', 'default' or the keys base_url and model"
        )
    return value


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no later changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class JudgePrice(Strict):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)


class Judge(Strict):
    """An OpenAI-compatible judge; its key comes from the environment variable `key_env` and is never written.

    `model` left out: the default of the benchmark that it scores (`harness.judging.models`). `key_env` left out:
    OPENAI_API_KEY for OpenAI's own server, which alone may see that key, and none for any other. `price` left out: what
    is known of the model.
    """

    base_url: str = Field(default=OPENAI, pattern=r"^https?://")
    model: str | None = Field(default=None, min_length=1)
    key_env: str | None = None
    price: JudgePrice | None = None

    @model_validator(mode="before")
    @classmethod
    def _key_for_openai_alone(cls, value: Any) -> Any:
        if isinstance(value, dict) and "key_env" not in value and is_openai(str(value.get("base_url", OPENAI))):
            return {**value, "key_env": "OPENAI_API_KEY"}
        return value


Keep = Annotated[float, BeforeValidator(_keep)]
Keeps = Annotated[list[Keep], BeforeValidator(_as_list), Field(min_length=1), AfterValidator(_distinct)]
Names = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1), AfterValidator(_distinct)]
JUDGE_TAGS = ("said to be a rule", "said to be a judge")
AnyJudge = Annotated[
    Annotated[Literal["exact", "official"], Tag(JUDGE_TAGS[0])] | Annotated[Judge, Tag(JUDGE_TAGS[1])],
    Discriminator(lambda value: JUDGE_TAGS[value not in RULES]),
    BeforeValidator(_judge),
]


class Row(Strict):
    """One method with its fields, at every keep given. `vanilla` takes no keep: it keeps everything."""

    method: str
    fields: dict[str, Scalar] = {}
    keep: Keeps = [1.0]
    label: str | None = None

    @model_validator(mode="after")
    def _vanilla_keeps_all(self) -> Row:
        if self.method == "vanilla" and self.keep != [1.0]:
            raise problem("vanilla cuts nothing; leave its keep out")
        if self.method != "vanilla" and "keep" not in self.model_fields_set:
            raise problem("key 'keep' is missing; it lists the retention ratios, such as [0.5, 0.25]")
        return self


class Group(Strict):
    """Benchmarks that share one average, the header of its column, and the column's key in a CSV."""

    benchmarks: Names
    header: str = Field(default="Avg.(%)", min_length=1)
    key: str = Field(default="avg_pct", pattern=r"^([a-z0-9]+_)*avg_pct$")


class Profile(Strict):
    """The settings under which a table is made: which models, how many frames, which data and judge, which rows."""

    title: str | None = None
    models: Names
    data: Literal["micro"] | None = None
    """`micro`: the generated editions. Left out: the real data, in the folder given by --data."""
    frames: int = Field(ge=1)
    """Frames of a video; images have none."""
    model_settings: dict[str, Annotated[dict[str, Scalar], Field(min_length=1)]] = {}
    """By model, over what its own entry says: `frames`, the `revision` on the hub, and the keywords of its family's
    class, such as max_pixels."""
    compressors: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """By model, where `cnn` finds its compressor: a folder or `owner/name@revision` on the hub, either one compressor
    or `compressor-video/` and `compressor-image/`; see `Experiment.compressor_of`."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest response in tokens; left out: what the model's own entry says."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    judge: AnyJudge = "exact"
    judges: dict[str, AnyJudge] = {}
    """By benchmark, where it is not `judge`."""
    costs_at: dict[str, Annotated[int, Field(ge=1)]] = {}
    """By model, visual tokens of the input for which the table tells what each row costs; left out: it does not."""
    rows: list[Row] = Field(min_length=1)


class ExperimentFile(Strict):
    """A whole file: what all profiles share, and the profiles by name. Either `benchmarks`, with one average over all
    of them, or `groups`, each with an average of its own.
    """

    name: str
    title: str
    benchmarks: Names = []
    groups: Annotated[list[Group], Field(min_length=1), AfterValidator(_distinct_groups)] = []
    match: Match | None = None
    """What is made equal between the methods of one retention in every profile; left out: what `--match` says."""
    profiles: dict[str, Profile] = Field(min_length=1)

    @model_validator(mode="after")
    def _grouped_or_not(self) -> ExperimentFile:
        if not self.benchmarks and not self.groups:
            raise problem("key 'benchmarks' is missing; it lists the columns (or 'groups' does, with an average each)")
        if self.benchmarks and self.groups:
            raise problem("keys 'benchmarks' and 'groups' exclude each other: groups name their own benchmarks")
        return self


class Experiment(Strict):
    """One profile of one experiment, checked: what `harness.sweep` runs."""

    name: str
    title: str
    profile: str
    source: str
    models: list[str]
    benchmarks: list[str]
    groups: list[Group]
    """The averages; one over all benchmarks where the file has no groups."""
    data: Literal["micro"] | None
    frames: int
    model_settings: dict[str, dict[str, Scalar]]
    compressors: dict[str, str] = {}
    max_new_tokens: int | None
    dtype: str
    attention: str
    judge: AnyJudge
    judges: dict[str, AnyJudge]
    costs_at: dict[str, int] = {}
    rows: list[Row]
    match: Match | None = None
    """What is made equal between the methods of one retention: their keeps are chosen so."""
    max_samples: int | None = None

    def judge_of(self, benchmark: str) -> Literal["exact", "official"] | Judge:
        """The judge that scores `benchmark`; one read from a file names its model."""
        return self.judges.get(benchmark, self.judge)

    @property
    def needs_wordnet(self) -> bool:
        """Whether a benchmark is scored by WUPS, which cannot be computed without WordNet."""
        return WUPS in self.benchmarks and self.judge_of(WUPS) != "exact"

    def frames_of(self, model: str) -> int:
        """Frames of a video for `model`: its own setting, or the experiment's."""
        frames = self.model_settings.get(model, {}).get("frames", self.frames)
        assert isinstance(frames, int)  # the loader saw to it
        return frames

    def revision_of(self, model: str) -> str | None:
        """The revision on the hub that the experiment asks of `model`; None: what the model's own entry says."""
        revision = self.model_settings.get(model, {}).get("revision")
        return None if revision is None else str(revision)

    def compressor_of(self, model: str, row: Row) -> str | None:
        """The compressor that the row, or else the experiment, names for `model`: as it is written there, but for
        `{model}`, which stands for the model's own name, so that one row can name one for each model."""
        said = row.fields.get("compressor") or self.compressors.get(model)
        return None if said is None else str(said).replace("{model}", Path(model).name)

    def settings_of(self, model: str) -> dict[str, Scalar]:
        """What goes to the constructor of the family of `model`, over the model's own entry."""
        said = self.model_settings.get(model, {})
        return {name: value for name, value in said.items() if name not in ("frames", "revision")}
