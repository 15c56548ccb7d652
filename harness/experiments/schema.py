"""What an experiment file may say, as types. Structure only; names are checked against the registries in `loader`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

Scalar = bool | int | float | str | None


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


def _judge(value: Any) -> Any:
    if value not in RULES and not isinstance(value, dict | Judge):
        raise problem(f"{value!r} is not a judge; allowed are 'exact', 'official' or the keys base_url and model")
    return value


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no later changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Judge(Strict):
    """An OpenAI-compatible judge; its key comes from the environment variable `key_env` and is never written."""

    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    key_env: str | None = "OPENAI_API_KEY"


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


class Profile(Strict):
    """The settings under which a table is made: which models, how many frames, which data and judge, which rows."""

    title: str | None = None
    models: Names
    data: Literal["micro"] | None = None
    """`micro`: the generated editions. Left out: the real data, in the folder given by --data."""
    frames: int = Field(ge=1)
    pixels: int | None = Field(default=None, ge=28 * 28)
    """Pixels a frame; left out: what the model's own entry says."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest response in tokens; left out: what the model's own entry says."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    judge: AnyJudge = "exact"
    judges: dict[str, AnyJudge] = {}
    """By benchmark, where it is not `judge`."""
    rows: list[Row] = Field(min_length=1)


class ExperimentFile(Strict):
    """A whole file: what all profiles share, and the profiles by name."""

    name: str
    title: str
    benchmarks: Names
    profiles: dict[str, Profile] = Field(min_length=1)


class Experiment(Strict):
    """One profile of one experiment, checked: what `harness.sweep` runs."""

    name: str
    title: str
    profile: str
    source: str
    models: list[str]
    benchmarks: list[str]
    data: Literal["micro"] | None
    frames: int
    pixels: int | None
    max_new_tokens: int | None
    dtype: str
    attention: str
    judge: AnyJudge
    judges: dict[str, AnyJudge]
    rows: list[Row]
    max_samples: int | None = None

    def judge_of(self, benchmark: str) -> Literal["exact", "official"] | Judge:
        """The judge that scores `benchmark`."""
        return self.judges.get(benchmark, self.judge)
