"""Archives of videos, unpacked flat into one folder: whole or not at all, and never out of it.

Every file lands under its bare name, as VLMEvalKit unpacks them. The files are written into `<target>.part`; only when
all of them are there does it become `<target>`, beside `<target>.unpacked.json`, which says from which archives and how
large each file is. So a folder that an unpacking left half-filled is noticed, and gone on with.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from harness.store import write_atomically
from model_wrappers.errors import UserError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".pkl")
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error),
    *(EOFError, pickle.UnpicklingError, NotImplementedError),
)
Told = Callable[[int], Any]
"""Called with the bytes written since the last call."""


def is_archive(path: Path) -> bool:
    """Whether a file has the name of an archive that can be unpacked."""
    return path.name.endswith(ARCHIVES) and path.is_file()


def whole(archives: list[Path], target: Path) -> bool:
    """Whether `target` holds all that the archives do, with the right sizes. Reads no archive's contents.

    A folder without a note is believed where the archives list their sizes themselves (zip) and all of them are there.
    """
    if not target.is_dir():
        return False
    noted = _note(target)
    if noted is None:
        if not all(path.name.endswith(".zip") for path in archives):
            return False
        files = {member.name: member.size for path in archives for member in _members(path)}
    else:
        if noted["archives"] != _stamps(archives):
            return False
        files = noted["files"]
    return all(_size(target / name) == size for name, size in files.items())


def unpack(archives: list[Path], target: Path, told: Told = lambda _: None) -> None:
    """Unpack `archives` into `target`, unless they are; what a cut-short unpacking left is kept and completed.

    Raises UserError for a damaged archive, one that would write elsewhere or holds links or devices, two files of one
    name, or a disk without the room; `target` is not there then.
    """
    archives = sorted(archives)
    if whole(archives, target):
        return
    if target.is_dir() and _note(target) is None:
        # Unpacked by another program, and perhaps in use: it is not taken away where it is whole.
        files = {member.name: member.size for path in archives for member in _members(path)}
        if all(_size(target / name) == size for name, size in files.items()):
            return _write_note(archives, target, files)
    part = target.with_name(f"{target.name}.part")
    try:
        if target.is_dir():  # unpacked by another program, which stopped in the middle
            if part.is_dir():
                shutil.rmtree(part)
            target.rename(part)
        part.mkdir(parents=True, exist_ok=True)
        sizes: dict[str, int] = {}
        for archive in archives:
            for member in _members(archive):
                if member.name in sizes:
                    raise UserError(f"{archive} has a second file called {member.name}; none is unpacked over another")
                sizes[member.name] = member.size
                if _size(part / member.name) != member.size:
                    _write(archive, member, part)
                told(member.size)
        _write_note(archives, target, sizes)
        os.replace(part, target)
    except OSError as error:
        raise UserError(f"{target} cannot be unpacked into: {error.strerror or error}") from error
    return None


class _Member:
    """One file of an archive: its bare name, its size, and how to open it."""

    def __init__(self, name: str, size: int, open_: Callable[[], IO[bytes]]) -> None:
        self.name, self.size, self.open = name, size, open_


def _members(archive: Path) -> Iterator[_Member]:
    """The files of an archive; UserError for one that is damaged or asks for what no archive of videos needs."""
    reader = _pickle if archive.suffix == ".pkl" else _zip if archive.suffix == ".zip" else _tar
    with _reading(archive):
        yield from reader(archive)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise UserError(f"the archive {archive} is damaged ({error}); delete it and get it again") from error


def _zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, info.filename, "is a link or a device")
            if info.flag_bits & 1:
                raise _refused(archive, info.filename, "is encrypted")
            name = _bare(archive, info.filename)
            if not info.is_dir():
                yield _Member(name, info.file_size, partial(opened.open, info))


def _tar(archive: Path) -> Iterator[_Member]:
    if archive.suffix == ".tar":
        with archive.open("rb") as file:
            file.seek(-min(1024, archive.stat().st_size), os.SEEK_END)
            if any(file.read()):  # tarfile takes one that is cut between two files for a whole one
                raise tarfile.ReadError("its end is missing")
    with tarfile.open(archive) as opened:
        for info in opened:
            if not (info.isreg() or info.isdir()):
                raise _refused(archive, info.name, "is a link or a device")
            try:
                tarfile.data_filter(info, str(archive.parent))
            except tarfile.FilterError as error:
                raise _refused(archive, info.name, "leads out of its folder") from error
            name = _bare(archive, info.name)
            if info.isreg():
                yield _Member(name, info.size, partial(_extracted, opened, info))


def _extracted(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = opened.extractfile(info)
    assert file is not None  # only links and devices have none
    return file


class _OnlyBytes(pickle.Unpickler):
    """A pickle can call any function when it is read; one of videos needs none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and a pickle of videos needs nothing")


def _pickle(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as file:
        try:
            content = _OnlyBytes(file).load()
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise pickle.UnpicklingError(str(error)) from error
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, bytes) for k, v in content.items()
    ):
        raise pickle.UnpicklingError("it is no dictionary of names and bytes")
    for name, video in content.items():
        if name != PurePosixPath(name).name:
            raise _refused(archive, name, "leads out of its folder")
        yield _Member(_bare(archive, f"{name}.mp4"), len(video), partial(io.BytesIO, video))


def _bare(archive: Path, name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or path.name in ("", "."):
        raise _refused(archive, name, "leads out of its folder")
    return path.name


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"the archive {archive} is not unpacked: its member {name!r} {why}")


def _write(archive: Path, member: _Member, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if member.size > free:
        raise UserError(f"{archive} cannot be unpacked: {member.name} takes {member.size} bytes, {free} are free")
    temporary = folder / f".{member.name}.{os.getpid()}"
    try:
        with _reading(archive), closing(member.open()) as source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        if temporary.stat().st_size != member.size:
            raise UserError(f"the archive {archive} is damaged: {member.name} is not as long as it says")
        temporary.replace(folder / member.name)
    finally:
        temporary.unlink(missing_ok=True)


def _place_of_note(target: Path) -> Path:
    return target.with_name(f"{target.name}.unpacked.json")


def _note(target: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(_place_of_note(target).read_text("utf-8"))
        return {"archives": dict(content["archives"]), "files": dict(content["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the archives themselves are asked then


def _write_note(archives: list[Path], target: Path, files: dict[str, int]) -> None:
    write_atomically(_place_of_note(target), json.dumps({"archives": _stamps(archives), "files": files}))


def _stamps(archives: list[Path]) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in archives}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
