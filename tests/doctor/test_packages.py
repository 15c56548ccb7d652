"""Packages in wrong versions, absent ones, and one that does not load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.doctor import packages


def pretend(folder: Path, name: str, version: str) -> None:
    """An installed distribution of that version, as importlib.metadata finds it."""
    home = folder / f"{name}-{version}.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_this_environment_has_what_is_asked_for() -> None:
    (only,) = packages.checks([])
    assert only.state == "ok" and only.said.startswith("30 of 30 as vlm-retain asks for them, on Python 3.")


@pytest.mark.parametrize(
    ("name", "version", "wanted"),
    [
        ("torch", "2.13.0", "!=2.13.0,>=2.11"),
        ("transformers", "5.22.0", "<5.22,>=5.17"),
        ("decord", "0.5.2", ">=0.6.0"),
    ],
)
def test_a_wrong_version_is_told_with_the_right_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, wanted: str
) -> None:
    pretend(tmp_path, name, version)
    monkeypatch.syspath_prepend(str(tmp_path))
    said, wrong = packages.checks([])
    assert said.said.startswith("29 of 30")
    assert (wrong.area, wrong.name, wrong.state) == ("packages", name, "missing")
    assert wrong.said == f"is {version}; wanted is {wanted}"


def test_an_absent_package_and_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=1", "no-such-thing>=3", "other; sys_platform == \'plan9\'"]\n'
        '[project.optional-dependencies]\nflash = ["no-flash>=2"]\ntest = ["no-test"]\n'
    )
    monkeypatch.setattr(packages, "PACKAGES", tmp_path)
    _, wrong = packages.checks([])
    assert (wrong.name, wrong.said) == ("no-such-thing", "is not installed; wanted is no-such-thing>=3")
    from harness.experiments import load

    asked = load("table3").model_copy(update={"attention": "flash_attention_2"})
    assert [check.name for check in packages.checks([asked])[1:]] == ["no-such-thing", "no-flash"]


def test_a_package_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decord.py").write_text("raise OSError('libavcodec.so.58: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    _, wrong = packages.checks([])
    assert (wrong.name, wrong.state) == ("decord", "missing") and "libavcodec.so.58" in wrong.said
