"""Archives: unpacked whole, gone on with where it stopped, and never out of their folder."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.data.unpack import unpack, whole
from model_wrappers.errors import UserError

VIDEOS = {"a.mp4": b"first" * 300, "b.mp4": b"second" * 200}


def zipped(path: Path, members: dict[str, bytes], **attributes: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes.get("mode", 0o100644) << 16
            archive.writestr(info, content)
    return path


def tarred(path: Path, members: dict[str, Any]) -> Path:
    """A tar of contents by name; a TarInfo in place of a content is put in as it is."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def pickled(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NESTED = {f"data/{name}": content for name, content in VIDEOS.items()}
KINDS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda folder: zipped(folder / "v.zip", {"data/": b"", **NESTED}),
    "tar": lambda folder: tarred(folder / "v.tar", {"data": special("data", tarfile.DIRTYPE), **NESTED}),
    "tar.gz": lambda folder: tarred(folder / "v.tar.gz", NESTED),
    "pickle": lambda folder: pickled(folder / "v.pkl", {name[0]: content for name, content in VIDEOS.items()}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_lands_under_its_bare_name(kind: str, tmp_path: Path) -> None:
    archive, target = KINDS[kind](tmp_path), tmp_path / "video"
    assert not whole([archive], target)
    seen: list[int] = []
    unpack([archive], target, seen.append)
    assert held(target) == VIDEOS and whole([archive], target)
    assert sum(seen) == sum(map(len, VIDEOS.values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name, "video", "video.unpacked.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_unpacking_left_is_noticed_and_completed(kind: str, tmp_path: Path) -> None:
    """As the kit leaves it, which takes the folder for complete: the last file is cut short."""
    archive, target = KINDS[kind](tmp_path), tmp_path / "video"
    target.mkdir()
    (target / "a.mp4").write_bytes(VIDEOS["a.mp4"])
    (target / "b.mp4").write_bytes(VIDEOS["b.mp4"][:10])
    before = (target / "a.mp4").stat().st_ino
    assert not whole([archive], target)
    unpack([archive], target)
    assert held(target) == VIDEOS and whole([archive], target)
    assert (target / "a.mp4").stat().st_ino == before, "what is right is not written again"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_lost_later_is_noticed(kind: str, tmp_path: Path) -> None:
    archive, target = KINDS[kind](tmp_path), tmp_path / "video"
    unpack([archive], target)
    (target / "b.mp4").unlink()
    assert not whole([archive], target)
    unpack([archive], target)
    assert held(target) == VIDEOS


def test_what_was_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    archive, target = KINDS["zip"](tmp_path), tmp_path / "video"

    def kill(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack([archive], target, kill)
    assert not target.exists() and list(held(tmp_path / "video.part")) == ["a.mp4"]
    unpack([archive], target)
    assert held(target) == VIDEOS and not (tmp_path / "video.part").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_folder_unpacked_by_another_program_stays_where_it_is(kind: str, tmp_path: Path) -> None:
    archive, target = KINDS[kind](tmp_path), tmp_path / "video"
    target.mkdir()
    place = target.stat().st_ino
    for name, content in VIDEOS.items():
        (target / name).write_bytes(content)
    before = {path.name: path.stat().st_ino for path in target.iterdir()}
    with target.joinpath("a.mp4").open("rb") as in_use:
        unpack([archive], target)
        assert in_use.read() == VIDEOS["a.mp4"]
    assert {path.name: path.stat().st_ino for path in target.iterdir()} == before
    assert target.stat().st_ino == place and whole([archive], target)


def test_another_archive_of_the_same_name_is_unpacked_anew(tmp_path: Path) -> None:
    archive, target = KINDS["zip"](tmp_path), tmp_path / "video"
    unpack([archive], target)
    zipped(archive, {"a.mp4": b"other"})
    assert not whole([archive], target)
    unpack([archive], target)
    assert (target / "a.mp4").read_bytes() == b"other"


class Trap:
    """What a hostile pickle has in it: a call of any function."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("trapped",))


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip up": (lambda folder: zipped(folder / "v.zip", {"../../evil.mp4": b"x"}), "leads out of its folder"),
    "zip absolute": (lambda folder: zipped(folder / "v.zip", {"/evil.mp4": b"x"}), "leads out of its folder"),
    "zip backslash": (lambda folder: zipped(folder / "v.zip", {"..\\evil.mp4": b"x"}), "leads out of its folder"),
    "zip link": (lambda folder: zipped(folder / "v.zip", {"a.mp4": b"/etc/passwd"}, mode=0o120777), "is a link"),
    "zip device": (lambda folder: zipped(folder / "v.zip", {"a.mp4": b""}, mode=0o020666), "is a link or a device"),
    "zip twice": (lambda folder: zipped(folder / "v.zip", {"x/a.mp4": b"1", "y/a.mp4": b"2"}), "a second file called"),
    "tar up": (lambda folder: tarred(folder / "v.tar", {"../evil.mp4": b"x"}), "leads out of its folder"),
    "tar absolute": (lambda folder: tarred(folder / "v.tar", {"/evil.mp4": b"x"}), "leads out of its folder"),
    "tar symlink": (
        lambda folder: tarred(folder / "v.tar", {"a": special("a", tarfile.SYMTYPE, "../.."), "a/evil": b"x"}),
        "is a link",
    ),
    "tar hard link": (
        lambda folder: tarred(folder / "v.tar", {"a": special("a.mp4", tarfile.LNKTYPE, "/etc/passwd")}),
        "is a link",
    ),
    "tar device": (lambda folder: tarred(folder / "v.tar", {"a": special("a", tarfile.CHRTYPE)}), "or a device"),
    "tar pipe": (lambda folder: tarred(folder / "v.tar.gz", {"a": special("a", tarfile.FIFOTYPE)}), "or a device"),
    "pickle up": (lambda folder: pickled(folder / "v.pkl", {"../evil": b"x"}), "leads out of its folder"),
    "pickle code": (lambda folder: pickled(folder / "v.pkl", {"a": Trap()}), "it asks for .*mkdir"),
    "pickle list": (lambda folder: pickled(folder / "v.pkl", ["a"]), "no dictionary of names and bytes"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    make, sentence = HOSTILE[what]
    archive = make(home)
    with pytest.raises(UserError, match=sentence) as caught:
        unpack([archive], home / "video")
    assert "\n" not in str(caught.value) and str(archive) in str(caught.value)
    written = {path for path in tmp_path.rglob("*") if path.is_symlink() or not path.is_dir()}
    assert all(path == archive or home / "video.part" in path.parents for path in written)
    assert not any(path.is_symlink() for path in written)
    assert not (home / "video").exists() and not (home / "trapped").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_leaves_no_folder(kind: str, tmp_path: Path) -> None:
    archive = KINDS[kind](tmp_path)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 4])
    with pytest.raises(UserError, match="damaged"):
        unpack([archive], tmp_path / "video")
    assert not (tmp_path / "video").exists()
    archive.write_bytes(content)
    unpack([archive], tmp_path / "video")
    assert held(tmp_path / "video") == VIDEOS


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "v.zip", {"a.mp4": os.urandom(2000)})
    content = bytearray(archive.read_bytes())
    content[500] ^= 255
    archive.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        unpack([archive], tmp_path / "video")
    assert not (tmp_path / "video").exists()


def test_a_disk_without_room_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.unpack.shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match="a.mp4 takes 1500 bytes, 100 are free"):
        unpack([KINDS["zip"](tmp_path)], tmp_path / "video")
