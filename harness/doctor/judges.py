"""Does each judge answer, take its key, and have the model? And is WordNet here, where a score needs it?

Asks for the list of models only: it costs nothing. The key is in one header of that request and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace

from harness.doctor.check import Check
from harness.experiments import WUPS, Experiment, Judge
from model_wrappers.errors import UserError

AREA = "judge"
TIMEOUT = 5.0
"""Seconds to connect, and between two pieces of an answer."""


def checks(experiments: list[Experiment]) -> list[Check]:
    """A line for each judge that some benchmark is scored by, and one for WordNet where WUPS is."""
    asked: dict[Judge, dict[str, None]] = {}
    for experiment in experiments:
        for name in experiment.benchmarks:
            judge = experiment.judge_of(name)
            if isinstance(judge, Judge):
                asked.setdefault(judge, {})[name] = None
    found = [_judge(judge, ", ".join(names)) for judge, names in asked.items()]
    if any(experiment.needs_wordnet for experiment in experiments):
        found.append(_wordnet())
    return found or [Check(AREA, "none", "ok", "every score of this profile is made without one")]


def _wordnet() -> Check:
    from harness.scoring.wordnet import ABSENT, available

    if available():
        return Check(AREA, "WordNet", "ok", f"is there, for {WUPS}")
    return Check(AREA, "WordNet", "missing", ABSENT)


def _judge(judge: Judge, benchmarks: str) -> Check:
    """What its server says; one whose last announced day has passed is at best a warning."""
    from harness.judging.models import passed

    assert judge.model is not None  # the loader saw to it
    check = _answers(judge, judge.model, benchmarks)
    if not (over := passed(judge.base_url, judge.model)):
        return check
    return replace(check, state="warning" if check.state == "ok" else check.state, said=f"{check.said}; {over}")


def _answers(judge: Judge, model: str, benchmarks: str) -> Check:
    import requests

    from harness.scoring.judge import Judge as Client
    from harness.scoring.judge import JudgeConfig

    name = f"{model} for {benchmarks}"
    try:
        endpoint = Client(JudgeConfig(judge.base_url, model, judge.key_env)).endpoint
    except UserError as error:
        return Check(AREA, name, "missing", str(error))
    address = endpoint.base
    try:
        response = endpoint.models(TIMEOUT)
    except requests.exceptions.RequestException as error:  # whose text may hold the request
        return Check(AREA, name, "missing", f"{address} does not answer ({type(error).__name__})")
    if response.status_code in (401, 403):
        key = f"the key in {judge.key_env}" if judge.key_env else "a request without a key"
        return Check(AREA, name, "missing", f"{address} refuses {key} (HTTP {response.status_code})")
    if response.status_code >= 500:
        return Check(AREA, name, "missing", f"{address} answers HTTP {response.status_code}")
    try:
        models = [str(each["id"]) for each in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        said = f"{address} answers, and does not tell its models (HTTP {response.status_code})"
        return Check(AREA, name, "warning", said)
    if model not in models:
        return Check(AREA, name, "missing", f"{address} answers and has no such model; it may have been retired")
    return Check(AREA, name, "ok", f"{address} answers and has it")
