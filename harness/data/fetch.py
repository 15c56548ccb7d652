"""Gets what can be got of one benchmark's data, and leaves a manifest when all of it is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import portalocker

from harness.data import hub, manifest
from harness.data.sources import Source, source, tsv_address
from harness.data.state import archives, state
from harness.data.unpack import unpack, whole
from model_wrappers.download import Checksum, Told, download, size_of
from model_wrappers.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """What is still to be got of a benchmark: files by address, or a data set of the hub.

    `files`: of each its address, place, checksum and, where the server says, its bytes, whether some are here or not.
    `size`: bytes to download (None: the server does not say); `room`: bytes that downloading and unpacking take.
    """

    source: Source
    files: tuple[tuple[str, Path, Checksum, int | None], ...]
    listing: hub.Listing | None
    size: int | None
    room: int


def ask(name: str, data: Path) -> Wanted | None:
    """Ask the servers what is still to be got of a benchmark; None where nothing is, not even to be unpacked.

    Raises UserError for a server that does not answer.
    """
    known, data = source(name), data.resolve()
    found = state(name, data)
    if not (found.lacks or found.packed or found.extras):
        return None
    unpacked = sum(_packed(paths) for paths, target in archives(known, data) if not whole(paths, target))
    if not (found.lacks or found.extras):
        return Wanted(known, (), None, 0, unpacked)
    if known.hub:
        listed = hub.listing(*known.hub)
        left = listed.size - hub.got(listed, data)
        packed = sum(size for path, (size, _) in listed.files.items() if path.endswith((".zip", ".pkl")))
        room = left + (unpacked or (packed if known.unpacked else 0))
        return Wanted(known, (), listed, left, room)
    files = tuple(
        (url, path, checksum, size_of(url) if size is None else size)
        for url, path, checksum, size in _addresses(known, data)
    )
    sizes = [size for *_, size in files]
    total = None if None in sizes else sum(filter(None, sizes))
    got = sum(_length(path.with_name(f"{path.name}.part")) for _, path, _, _ in files)
    left_over = None if total is None else max(0, total - got)
    return Wanted(known, files, None, left_over, (left_over or 0) + unpacked)


def fetch(wanted: Wanted, data: Path, *, progress: bool = True) -> None:
    """Download, verify and unpack what `ask` found, and write the benchmark's manifest.

    Raises UserError, also where another process is at it; what was downloaded until then is kept and gone on with the
    next time.
    """
    known, data = wanted.source, data.resolve()
    lock = manifest.place(data, known.benchmark).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with portalocker.Lock(lock, timeout=0):
            _fetch(wanted, data, progress)
    except portalocker.LockException as error:
        raise UserError(f"another process is getting it ({lock} is held); wait for that, or stop it") from error


def _fetch(wanted: Wanted, data: Path, progress: bool) -> None:
    known = wanted.source
    if wanted.listing is None and not wanted.files:  # placed by hand: nothing was downloaded that could be noted
        _unpack(known, data, progress)
        return
    origin: dict[str, Any] = {"page": known.page}
    if wanted.listing is not None:
        origin |= {"hub": wanted.listing.repository, "revision": wanted.listing.revision}
        origin |= {"commit": wanted.listing.commit}
        manifest.begin(data, known.benchmark, origin)
        paths = hub.fetch(wanted.listing, data)
    else:
        origin |= {"files": {path.name: f"{url} ({kind} {value})" for url, path, (kind, value), _ in wanted.files}}
        manifest.begin(data, known.benchmark, origin)
        for url, path, checksum, size in wanted.files:
            with _bar(path.name, size, progress) as told:  # the whole file: `download` tells what is here, too
                download(url, path, checksum, told)
        paths = [data / "LMUData" / f"{known.tsv}.tsv"] if known.tsv else [data / file.place for file in known.files]
    _unpack(known, data, progress)
    manifest.finish(data, known.benchmark, origin, [path for path in paths if path.is_file()])


def _unpack(known: Source, data: Path, progress: bool) -> None:
    for packed, target in archives(known, data):
        with _bar(f"unpacking {target.name}", _packed(packed), progress) as told:
            unpack(packed, target, told)


def check_room(wanted: list[Wanted], data: Path) -> None:
    """UserError unless the disk of `data` has room for all that is wanted."""
    needed, free = sum(each.room for each in wanted), shutil.disk_usage(data).free
    if needed > free:
        raise UserError(
            f"{data} has room for {gigabytes(free)}, and downloading and unpacking takes {gigabytes(needed)}; "
            "name a folder on another disk with --data, or fewer benchmarks"
        )


def gigabytes(size: int) -> str:
    """A size in words: 1.2 GB, 3.4 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _addresses(known: Source, data: Path) -> list[tuple[str, Path, Checksum, int | None]]:
    """Address, place, checksum and size of the files that are not there."""
    if known.tsv:
        path = data / "LMUData" / f"{known.tsv}.tsv"
        url, md5 = tsv_address(known.benchmark)
        return [(url, path, ("md5", md5), None)]
    begun = manifest.fault(data, known.benchmark) is not None
    return [
        (file.url, data / file.place, ("sha256", file.sha256), file.size)
        for file in known.files
        if begun or not (data / file.place).is_file()  # what was placed by hand stays
    ]


def _packed(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _bar(what: str, total: int | None, shown: bool) -> Iterator[Told]:
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc=what, disable=not shown) as bar:
        yield bar.update
