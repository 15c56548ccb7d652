"""`retain micro`: places that cannot be written, each in one sentence before anything is made; what its help says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from harness.disk import Refused, check_folder, disk_errors, refusal
from harness.micro import editions, training
from model_wrappers.errors import UserError
from tests.conftest import Said


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    "arguments", [["questions", "--samples", "1"], ["report"], ["differences"], ["train", "micro-qwen2-vl"]]
)
def test_a_file_in_the_place_of_the_folder_is_told_first(
    said: Said, file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(editions, "ensure", lambda _: pytest.fail("made before"))
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained before"))
    for out in (file, file / "q"):
        wanted = out
        if arguments == ["differences"]:
            out, wanted = out / "found.json", out
        status, printed, err = said("micro", *arguments, "--out", out)
        assert status == 2 and err == f"retain: --out {wanted}: not a folder\n" and printed == ""


def test_questions_into_a_folder_whose_part_is_a_file(said: Said, tmp_path: Path) -> None:
    (tmp_path / "video").write_text("")
    status, _, err = said("micro", "questions", "--out", tmp_path, "--samples", 1)
    assert status == 2 and err == f"retain: cannot write {tmp_path / 'video'}: something else has this name\n"


def test_whatever_a_path_is_refused_for_is_said_in_words(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, reason in ((tmp_path / ("n" * 300), "the name is too long"), (loop / "x", "its links lead in a circle")):
        with pytest.raises(UserError, match=f"^--out .* cannot be written to .{reason}.$"):
            check_folder(path, "--out")
        with pytest.raises(Refused, match=f"^cannot write .*: {reason}$"), disk_errors(path):
            path.write_text("")
    with pytest.raises(IsADirectoryError) as met:
        tmp_path.read_bytes()
    assert refusal(met.value) == f"cannot use {tmp_path}: it is a folder"
    assert refusal(OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "a/b")) == "cannot use a/b: not a folder"
    assert refusal(FileNotFoundError(errno.ENOENT, "", "a")) is None, "a fault of ours keeps its traceback"


def test_a_folder_that_is_tried_is_made_and_empty(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", "--out")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["Make the embedded default from nothing"]),
        (["train"], ["of the first weights"]),
        (["teach"], ["of the first weights", "to learn from", "passes over the training samples"]),
        (["questions"], ["of the scenes and what is asked"]),
        (["report"], ["make tables", "bounds, matched, positions and teachers"]),
    ],
)
def test_help_says_what_each_option_is(said: Said, arguments: list[str], words: list[str]) -> None:
    status, out, _ = said("micro", *arguments, "--help")
    assert status == 0
    assert all(word in " ".join(out.split()) for word in words), out
