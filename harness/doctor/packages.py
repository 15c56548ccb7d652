"""Are the packages here that this one asks for, in versions that it works with?"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import tomllib

from packaging.requirements import Requirement

from harness.doctor.check import Check
from harness.experiments import Experiment
from harness.identity import PACKAGES

AREA, OWN = "packages", "vlm-retain"


def checks(experiments: list[Experiment]) -> list[Check]:
    """One line for all that are right, and one for each that is not."""
    wanted = _wanted()
    attention = {each.attention for each in experiments}
    extras = [""] + (["flash"] if "flash_attention_2" in attention else [])
    needed = [Requirement(text) for text in wanted]
    needed = [each for each in needed if not each.marker or any(each.marker.evaluate({"extra": it}) for it in extras)]
    found = [wrong for each in needed if (wrong := _wrong(each))]
    if not any(check.name == "decord" for check in found) and (broken := _broken("decord")):
        found.append(broken)
    right = len(needed) - len(found)
    told = f"{right} of {len(needed)} as {OWN} asks for them, on Python {platform.python_version()}"
    return [Check(AREA, "versions", "ok", told), *found]


def _wanted() -> list[str]:
    """What this code asks for: its own pyproject.toml in a checkout, where nothing or an older version of it may be
    installed; else what was installed with it.
    """
    path = PACKAGES / "pyproject.toml"
    if not path.is_file():
        return importlib.metadata.requires(OWN) or []
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(f'{each} ; extra == "{name}"' for name, needed in extras for each in needed)]


def _wrong(needed: Requirement) -> Check | None:
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(AREA, needed.name, "missing", f"is not installed; wanted is {needed.name}{needed.specifier}")
    if needed.specifier.contains(version, prereleases=True):
        return None
    return Check(AREA, needed.name, "missing", f"is {version}; wanted is {needed.specifier}")


def _broken(name: str) -> Check | None:
    """A package with a library of its own, which may not load on this system."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:
        return Check(AREA, name, "missing", f"is installed and does not load: {' '.join(str(error).split())}")
    return None
