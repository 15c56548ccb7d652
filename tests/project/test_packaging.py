"""The lock fits the ranges, the code imports only what is declared, and importing is as light as promised."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.project.repository import ROOT, python, texts

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# flash-attn is compiled on the user's machine against its CUDA; no lock can name it.
UNLOCKED = {"flash-attn"}


def _declared(*extras: str) -> dict[str, Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(parsed.name): parsed for parsed in map(Requirement, lines)}


def _locked() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / ".ci/lock.txt").read_text().splitlines())
    return {canonicalize_name(parsed.name): parsed for parsed in map(Requirement, filter(None, lines))}


def _version(pinned: Requirement) -> Version:
    (specifier,) = pinned.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, f"{pinned} is not pinned"
    return Version(specifier.version)


def test_lock_pins_every_declared_package_within_its_range() -> None:
    locked = _locked()
    wanted = {name: req for name, req in _declared(*PROJECT["optional-dependencies"]).items() if name not in UNLOCKED}
    assert sorted(set(wanted) - set(locked)) == []
    for name, requirement in wanted.items():
        version = _version(locked[name])
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} excludes {version}"


def test_lock_is_complete_and_consistent() -> None:
    """Every requirement of every locked package that is installed here is locked, too, at a version it accepts."""
    locked = _locked()
    # ms-vlmeval declares Polygon3, which needs a compiler, and imports it nowhere.
    left_out = {"polygon3"}
    checked = 0
    for name in locked:
        try:
            requires = importlib.metadata.distribution(name).requires or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, requires):
            needed = canonicalize_name(requirement.name)
            if needed in left_out or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            assert needed in locked, f"{name} needs {requirement}, which .ci/lock.txt lacks"
            assert requirement.specifier.contains(_version(locked[needed]), prereleases=True), (
                f"{name} needs {requirement}"
            )
            checked += 1
    assert checked > 200


def test_torch_213_is_excluded_and_python_is_bounded() -> None:
    torch = _declared()["torch"].specifier
    assert "2.13.0" not in torch and "2.11.0" in torch and "2.10.0" not in torch
    transformers = _declared()["transformers"].specifier
    assert "5.18.0" in transformers and "5.22.0" not in transformers
    assert PROJECT["requires-python"] == ">=3.11"


def test_every_import_is_declared() -> None:
    owners = importlib.metadata.packages_distributions()
    own = {"harness", "model_wrappers", "tests"}
    # pydantic brings its core, pinned, and documents importing from it.
    owners["pydantic_core"] = ["pydantic"]
    # Ray is loaded only where somebody asks for it, after a look whether it is there (harness.sweep.cluster.check).
    base, all_extras = set(_declared("ray")), set(_declared("test", "dev"))
    undeclared = set()
    for name, text in texts(".py").items():
        allowed = all_extras if name.startswith("tests/") else base
        for module in _imported(text) - own - set(sys.stdlib_module_names):
            if not {canonicalize_name(owner) for owner in owners.get(module, [module])} & allowed:
                undeclared.add(f"{name}: {module}")
    assert sorted(undeclared) == []


def _imported(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_command_and_package_data_exist() -> None:
    module, _, function = PROJECT["scripts"]["retain"].partition(":")
    text = (ROOT / (module.replace(".", "/") + ".py")).read_text()
    assert re.search(rf"^def {function}\(", text, re.MULTILINE)
    assert list((ROOT / "harness").glob("experiments/*.yaml"))


def test_importing_model_wrappers_brings_no_benchmark_kit() -> None:
    names = ("compression", "compressor", "encoding", "registry", "relevance")
    modules = ["model_wrappers", *(f"model_wrappers.{name}" for name in names)]
    loaded = python(f"import sys, {', '.join(modules)}; print(*sys.modules)").split()
    assert set(modules) <= set(loaded)
    assert {"vlmeval", "pandas", "matplotlib", "harness"} & set(loaded) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["reference", "table3"]])
def test_light_commands_load_neither_torch_nor_the_kit(arguments: list[str]) -> None:
    out = python(
        "import sys\n"
        f"sys.argv = ['retain', *{arguments!r}]\n"
        "from harness.cli import main\n"
        "try:\n"
        "    status = main()\n"
        "except SystemExit as end:\n"
        "    status = end.code\n"
        "assert not status, status\n"
        "print('MODULES', *sys.modules)"
    )
    shown, _, loaded = out.rpartition("MODULES")
    assert ("Usage" in shown) or ("Qwen2-VL" in shown)
    assert {"torch", "transformers", "vlmeval", "pandas"} & set(loaded.split()) == set()
