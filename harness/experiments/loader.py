"""Reads an experiment file and checks every name in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from harness.experiments.model_settings import check_settings
from harness.experiments.schema import JUDGE_TAGS, Experiment, ExperimentFile, Group, Judge, JudgePrice, Profile, Row
from harness.judging.models import DEFAULTS
from harness.matching import MATCHED, Match
from model_wrappers.errors import UserError

HERE = Path(__file__).parent
NEEDS_EVIDENCE = ("oracle", "anti-oracle")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice in one mapping (YAML's own answer is to keep the last in silence)."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def experiment_names() -> list[str]:
    """The experiments that come with the package."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def names_with(profile: str) -> list[str]:
    """The experiments that come with the package and have such a profile. UserError where none has."""
    by_name = {name: list(_parse(HERE / f"{name}.yaml")["profiles"]) for name in experiment_names()}
    if not any(profile in profiles for profiles in by_name.values()):
        known = list(dict.fromkeys(each for profiles in by_name.values() for each in profiles))
        raise UserError(f"no experiment has a profile {profile!r}{_meant(profile, known)}")
    return [name for name, profiles in by_name.items() if profile in profiles]


def load(
    path_or_name: str | Path,
    profile: str = "micro",
    *,
    max_samples: int | None = None,
    data: Path | None = None,
    match: Match | None = None,
) -> Experiment:
    """One profile of an experiment, fully checked.

    `path_or_name` is a name from `experiment_names` or the path of a YAML file. `max_samples` limits each benchmark to
    its first samples. `data` is the data folder, in which TSV files may be benchmarks of their own. `match` makes an
    experiment of its own, called `<name>-matched`, of one whose file matches nothing.

    Raises UserError for whatever is wrong in the file. Loads neither torch nor vlmeval, unless a benchmark is not one
    of ours: then vlmeval is asked for it.
    """
    path = _find(path_or_name)
    content = _parse(path)
    try:
        file = ExperimentFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error)}") from error
    if profile not in file.profiles:
        raise UserError(f"{path}: no profile {profile!r}{_meant(profile, file.profiles)}")
    if max_samples is not None and max_samples < 1:
        raise UserError(f"--limit {max_samples}: allowed are whole numbers from 1")
    groups = file.groups or [Group(benchmarks=file.benchmarks)]
    benchmarks = [name for group in groups for name in group.benchmarks]
    for name in benchmarks:
        _check_benchmark(f"{path}: {'groups' if file.groups else 'benchmarks'}", name, data)
    for name, chosen in file.profiles.items():
        _check_names(f"{path}: profiles.{name}", benchmarks, chosen, data)
    chosen = file.profiles[profile]
    check_settings(f"{path}: profiles.{profile}.model_settings", chosen)
    added = match if file.match is None else None
    return Experiment(
        name=file.name + (MATCHED if added else ""),
        title=(chosen.title or file.title) + (f", matched {added.replace('_', ' ')}" if added else ""),
        profile=profile,
        source=str(path),
        models=chosen.models,
        benchmarks=benchmarks,
        groups=groups,
        data=chosen.data,
        frames=chosen.frames,
        model_settings=chosen.model_settings,
        compressors=chosen.compressors,
        max_new_tokens=chosen.max_new_tokens,
        dtype=chosen.dtype,
        attention=chosen.attention,
        judge=chosen.judge,
        judges=chosen.judges | _default_judges(f"{path}: profiles.{profile}", benchmarks, chosen, data),
        costs_at=chosen.costs_at,
        rows=chosen.rows,
        match=file.match or match,
        max_samples=max_samples,
    )


def _find(path_or_name: str | Path) -> Path:
    text = str(path_or_name)
    if text in experiment_names():
        return HERE / f"{text}.yaml"
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"experiment file {path} does not exist")
    raise UserError(f"no experiment {text!r}{_meant(text, experiment_names())}, or the path of a .yaml file")


def _parse(path: Path) -> Any:
    try:
        return yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: {error.problem}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from error


def _check_names(where: str, benchmarks: list[str], profile: Profile, data: Path | None) -> None:
    from harness.benchmarks import benchmark
    from harness.models import model_names
    from model_wrappers.registry import method, method_names

    if profile.data == "micro":
        import harness.micro

        harness.micro.register()
    for name in profile.judges:
        _known(f"{where}.judges", name, benchmarks)
    for name in profile.model_settings:
        _known(f"{where}.model_settings", name, profile.models)
    for name in profile.compressors:
        _known(f"{where}.compressors", name, profile.models)
    for name in profile.costs_at:
        _known(f"{where}.costs_at", name, profile.models)
    for name in benchmarks:
        if benchmark(name, data).needs_judge and profile.judges.get(name, profile.judge) == "official":
            raise UserError(f"{where}.judge: {name} has no official metric without a judge; give it base_url and model")
    for name in profile.models:
        if not Path(name).expanduser().is_dir():
            _known(f"{where}.models", name, [*model_names(), "the path of a checkpoint folder"])
    seen: set[tuple[Any, ...]] = set()
    for number, row in enumerate(profile.rows):
        here = f"{where}.rows.{number}"
        if row.method in NEEDS_EVIDENCE and profile.data != "micro":
            raise UserError(f"{here}.method: {row.method} must know what a question is about; only data: micro tells")
        _known(f"{here}.method", row.method, method_names())
        try:
            made = method(row.method, **row.fields)
        except UserError as error:
            raise UserError(f"{here}.fields: {error}") from error
        for keep in row.keep:
            if (row.method, made, keep) in seen:
                raise UserError(f"{here}: {row.method} at keep {keep:g} is given twice; each may stand once")
            seen.add((row.method, made, keep))


def _default_judges(where: str, benchmarks: list[str], profile: Profile, data: Path | None) -> dict[str, Judge]:
    """By benchmark the judges that leave their model to the benchmark, with its default."""
    from harness.benchmarks import benchmark

    found = {}
    for name in benchmarks:
        judge = profile.judges.get(name, profile.judge)
        if isinstance(judge, Judge) and judge.model is None:
            model = DEFAULTS.get(benchmark(name, data).scored_as)
            if model is None:
                raise UserError(
                    f"{where}.judge: {name} has no default judge; give the judge a model, or use 'official'"
                )
            found[name] = judge.model_copy(update={"model": model})
    return found


def _check_benchmark(where: str, name: str, data: Path | None) -> None:
    """One of ours, else a data set of VLMEvalKit, which is imported to know, or a TSV in the data folder."""
    from harness.benchmarks import benchmark, benchmark_names

    try:
        benchmark(name, data)
    except UserError as error:
        close = difflib.get_close_matches(name, benchmark_names(), n=1)
        raise UserError(f"{where}: {error}{f' (did you mean {close[0]!r}?)' if close else ''}") from error


def _known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UserError(f"{where}: unknown name {name!r}{_meant(name, known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{guess}; allowed are {', '.join(known)}"


def _sentence(error: ValidationError) -> str:
    """The first thing wrong, as `key: what is wrong; what is allowed`."""
    first = error.errors(include_url=False)[0]
    place = [part for part in first["loc"] if part not in JUDGE_TAGS]
    key = ".".join(str(part) for part in place)
    kind, given = first["type"], first.get("input")
    if kind == "said":
        return f"{key}: {first['msg']}" if key else first["msg"]
    if kind == "extra_forbidden":
        return f"unknown key {key!r}{_meant(str(place[-1]), _keys_at(place[:-1]))}"
    if kind == "missing":
        return f"key {key!r} is missing"
    if not key:
        return f"the file holds {_named(given)}; expected keys such as {', '.join(ExperimentFile.model_fields)}"
    return f"{key}: {_named(given)} is not allowed here: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _named(value: Any) -> str:
    return "nothing" if value is None else f"{str(value)[:60]!r}"


def _keys_at(place: list[Any]) -> list[str]:
    """The keys that the schema allows at a place such as profiles.micro.rows.2."""
    if not place:
        keys: type[BaseModel] = ExperimentFile
    elif place[0] == "profiles" and "rows" in place:
        keys = Row
    elif place[0] == "groups":
        keys = Group
    elif place[-1] == "price":
        keys = JudgePrice
    elif place[-1] == "judge" or "judges" in place:
        keys = Judge
    else:
        keys = Profile
    return list(keys.model_fields)
