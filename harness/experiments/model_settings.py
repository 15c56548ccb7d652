"""What an experiment may say of one model: `frames`, `revision`, and the keywords of its family's class.

The keywords are read off the source of the family's module: importing it would load torch and vlmeval before a mistake
in a YAML file is told.
"""

from __future__ import annotations

import ast
import difflib
import re
from pathlib import Path

from harness.experiments.schema import Profile, Scalar
from model_wrappers.errors import UserError

ELSEWHERE = {"method", "keep", "dtype", "attn_implementation", "nframe", "fps"}
"""Keywords that other keys of an experiment give: rows, dtype, attention, frames."""
NOT_HERE = ELSEWHERE | {"self", "model_path", "revision", "device"}
OURS = {"frames", "revision"}
"""Settings that every model has."""
_REVISION = re.compile(r"\w[\w./-]*")
_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
_SAID = {"int": "whole numbers from 1", "float": "numbers", "bool": "true and false", "str": "text", "None": "null"}


def check_settings(where: str, profile: Profile) -> None:
    """Raises UserError for a setting that a model's family does not know, or a value of the wrong kind."""
    for model, settings in profile.model_settings.items():
        here, allowed = f"{where}.{model}", {"frames": ["int"], "revision": ["str"]}
        if not settings.keys() <= OURS:
            allowed |= _keywords(model)
        for name, value in settings.items():
            if name not in allowed:
                close = difflib.get_close_matches(name, allowed, n=1)
                guess = f" (did you mean {close[0]!r}?)" if close else ""
                raise UserError(f"{here}: unknown setting {name!r}{guess}; allowed are {', '.join(allowed)}")
            if not any(_fits(value, kind) for kind in allowed[name]):
                kinds = " or ".join(_SAID[kind] for kind in allowed[name])
                raise UserError(f"{here}.{name}: {value!r} is not allowed here; allowed are {kinds}")
        if (revision := settings.get("revision")) is not None:
            _check_revision(here, model, str(revision))


def _check_revision(here: str, model: str, revision: str) -> None:
    from harness.models import on_hub

    if not on_hub(model):
        raise UserError(
            f"{here}.revision: only models of the hub have one; a checkpoint folder is known by its content"
        )
    if not _REVISION.fullmatch(revision):
        raise UserError(f"{here}.revision: {revision!r} is not allowed here; allowed are a commit, a tag or a branch")


def _keywords(model: str) -> dict[str, list[str]]:
    """Keyword -> the kinds of value it takes, for those whose kinds a YAML file can write."""
    from harness.models import model_family
    from model_wrappers import families

    module, name = families.FAMILIES[model_family(model)]
    path = Path(families.__file__).with_name(f"{module}.py")
    classes = {node.name: node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)}
    made = next(node for node in classes[name].body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    found = {}
    for argument in (*made.args.args, *made.args.kwonlyargs):
        if argument.arg in NOT_HERE or argument.annotation is None:
            continue
        kinds = [kind.strip() for kind in ast.unparse(argument.annotation).split("|")]
        if set(kinds) <= set(_KINDS):
            found[argument.arg] = kinds
    return found


def _fits(value: Scalar, kind: str) -> bool:
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "int":
        return type(value) is int and value >= 1
    return type(value) is _KINDS[kind]
