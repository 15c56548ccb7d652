"""What counts as another code, checkpoint or data, and what does not."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from harness import identity

CODE = '''"""A module."""
import model_wrappers.helper


def answer(x: int) -> int:
    """Doubles."""
    return x * 2  # twice
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package tree of its own in place of the real one."""
    folder = tmp_path / "model_wrappers"
    folder.mkdir()
    (folder / "method.py").write_text(CODE)
    (folder / "helper.py").write_text("A = 1\n")
    (folder / "unrelated.py").write_text("A = 1\n")
    monkeypatch.setattr(identity, "PACKAGES", tmp_path)
    return folder


def digest() -> str:
    for cached in (identity._source, identity._imports, identity._meaning):
        cached.cache_clear()
    found = identity.code_digest(["model_wrappers.method"])
    for cached in (identity._source, identity._imports, identity._meaning):
        cached.cache_clear()
    return found


def test_comments_docstrings_and_layout_are_not_code(package: Path) -> None:
    before = digest()
    plain = CODE.replace("  # twice", "").replace("Doubles.", "Two times.").replace("A module", "Another")
    (package / "method.py").write_text(plain.replace("x * 2", "(x\n        * 2)"))
    assert digest() == before


def test_a_changed_expression_or_a_changed_import_is(package: Path) -> None:
    before = digest()
    (package / "unrelated.py").write_text("A = 2\n")
    assert digest() == before, "a module that is not imported does not count"
    (package / "helper.py").write_text("A = 2\n")
    helper = digest()
    (package / "method.py").write_text(CODE.replace("x * 2", "x * 3"))
    assert len({before, helper, digest()}) == 3


def test_one_method_does_not_depend_on_another() -> None:
    names = ("model_wrappers.methods.fastv", "model_wrappers.methods.random")
    both = [identity.code_digest([name]) for name in names]
    assert both[0] != both[1]
    assert identity.code_digest(names) not in both


def test_imports_relative_and_absolute_are_followed() -> None:
    path = identity._source("model_wrappers.families.kit")
    assert path is not None
    found = set(identity._imports("model_wrappers.families.kit", path))
    assert {"model_wrappers.errors", "torch", "ssl"} <= found


def test_a_folder_is_its_names_and_bytes_a_stamp_its_times(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "x.json").write_text("1")
    assert identity.checkpoint_digest(a) == identity.checkpoint_digest(b)
    stamp = identity.folder_stamp(a)
    (a / "x.lock").write_text("")
    assert identity.folder_stamp(a) == stamp
    os.utime(a / "sub" / "x.json", ns=(1, 1))
    assert identity.folder_stamp(a) == stamp, "the same small file written again"
    for folder in (a, b):
        (folder / "x.mp4").write_text("1")
    stamp = identity.folder_stamp(a)
    os.utime(a / "x.mp4", ns=(1, 1))
    assert identity.folder_stamp(a) != stamp
    assert identity.checkpoint_digest(a) == identity.checkpoint_digest(b)
    (a / "sub" / "x.json").write_text("2")
    assert identity.checkpoint_digest(a) != identity.checkpoint_digest(b)


def test_a_checkpoint_is_all_its_parts_but_its_compressors(tmp_path: Path) -> None:
    for name in ("config.json", "llm/model.safetensors", "compressor-video/model.safetensors", ".cache/x", "a/.b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    seen = {identity.checkpoint_digest(tmp_path)}
    for name in ("compressor-video/model.safetensors", ".cache/x", "a/.b"):
        (tmp_path / name).write_text("2")
        seen.add(identity.checkpoint_digest(tmp_path))
    assert len(seen) == 1
    for name in ("config.json", "llm/model.safetensors", "compressor-notes.md"):
        (tmp_path / name).write_text("2")
        seen.add(identity.checkpoint_digest(tmp_path))
    assert len(seen) == 4


def test_a_stamp_can_leave_out_what_follows_from_the_rest(tmp_path: Path) -> None:
    (tmp_path / "LMUData").mkdir()
    (tmp_path / "LMUData" / "a.tsv").write_text("1")
    seen = {identity.folder_stamp(tmp_path, leave_out=("LMUData/images",))}
    for name in ("LMUData/images", "images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_text("1")
        seen.add(identity.folder_stamp(tmp_path, leave_out=("LMUData/images",)))
        assert len(seen) == (1 if name.startswith("LMU") else 2)


def test_the_version_is_the_one_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert identity.retain_version() == project["version"]
    assert identity.versions()["ms-vlmeval"] == "0.0.20"
