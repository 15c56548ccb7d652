"""What lies where, and what must not be in any file."""

from __future__ import annotations

import re
import tomllib

from tests.project.repository import ROOT, files, texts

TOP = {
    ".ci",
    ".gitignore",
    "AGENTS.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "harness",
    "model_wrappers",
    "pyproject.toml",
    "results",
    "tests",
}


def test_top_level_is_exactly_this() -> None:
    assert {name.split("/")[0] for name in files()} == TOP


def test_results_hold_what_belongs_there() -> None:
    assert {name.split("/")[1] for name in files() if name.startswith("results/")} <= {"reference", "micro"}


def test_agents_fits_on_one_screen() -> None:
    assert len((ROOT / "AGENTS.md").read_text("utf-8").splitlines()) <= 60


def test_no_machine_paths() -> None:
    # Put together here, so that this file does not hold them.
    places = re.compile("|".join(re.escape("/" + place) for place in ("work/", "root/", "tmp/w/", "opt/", "home/")))
    found = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in texts(".py", ".md", ".toml", ".yaml", ".txt", ".json", "Makefile", "run").items()
        for number, line in enumerate(text.splitlines(), start=1)
        if any(
            at == 0 or not (line[at - 1].isalnum() or line[at - 1] in "_.-/}>")
            for at in (match.start() for match in places.finditer(line))
        )
    ]
    assert found == []


def test_no_package_index_is_named() -> None:
    text = (ROOT / ".ci/lock.txt").read_text() + (ROOT / "pyproject.toml").read_text() + (ROOT / "Makefile").read_text()
    assert "://" not in text and "index-url" not in text and "find-links" not in text and " @ " not in text


def test_no_large_file() -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in files()}
    assert {name: size for name, size in sizes.items() if size > 8 * 2**20} == {}


def test_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0" in text and "END OF TERMS AND CONDITIONS" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"


def test_no_test_is_excused() -> None:
    # A test may ask for something of the machine (WordNet) with a condition; none is left out or let fail for good.
    excuses = re.compile(r"pytest\.(mark\.)?(" + "|".join(["sk" + r"ip\b", "xf" + "ail", "import" + "orskip"]) + r")")
    assert [name for name, text in texts(".py").items() if excuses.search(text)] == []
