"""A data set of the hub: what it holds, and its download into a data folder, verified."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from harness.vlmevalkit import hub_cache
from model_wrappers import hub_files
from model_wrappers.errors import UserError
from model_wrappers.hub import answering, download
from model_wrappers.hub_files import PART, Kind, Listing, home

ORPHAN = ".incomplete"
"""The end of a file's name in `blobs/` while huggingface_hub downloads it."""


def snapshot(repository: str, revision: str, data: Path) -> Path | None:
    """The folder with the files of a data set in the hub cache of `data`, or None; it need not be whole."""
    folder = home(repository, "dataset", hub_cache(data))
    reference = folder / "refs" / revision
    if not reference.is_file():
        return None
    found = folder / "snapshots" / reference.read_text(encoding="utf-8").strip()
    return found if found.is_dir() else None


def half(repository: str, kind: Kind, cache: Path) -> int:
    """How many files of a repository are half downloaded in a cache of the hub, by whichever program."""
    blobs = home(repository, kind, cache) / "blobs"
    return sum(1 for end in (ORPHAN, PART) for _ in blobs.glob(f"*{end}"))


def listing(repository: str, revision: str) -> Listing:
    """Ask the hub what a data set holds. UserError where it does not say."""
    with answering(repository, revision, "dataset"):
        return hub_files.listing(repository, revision, "dataset")


def got(listed: Listing, data: Path) -> int:
    """Bytes that the cache of `data` has of a data set, of files that are half downloaded, too."""
    kept = home(listed.repository, listed.kind, hub_cache(data))
    there = 0
    for path, (size, sha256) in listed.files.items():
        place = kept / "snapshots" / listed.commit / path
        if place.is_file():
            there += size if place.stat().st_size == size else 0
        elif sha256 and (part := kept / "blobs" / f"{sha256}{PART}").is_file():
            there += min(size, part.stat().st_size)
    return there


def fetch(listed: Listing, data: Path) -> list[Path]:
    """Download what the cache of `data` lacks of a data set, and verify all of it; its files. To be called where no
    other process gets it: what downloads that were killed left, and nothing goes on with, is removed.

    Raises UserError for a fault of the hub, and for a file that is not what the hub lists, also when got anew.
    """
    wrong: list[Path] = []
    for orphan in (home(listed.repository, listed.kind, hub_cache(data)) / "blobs").glob(f"*{ORPHAN}"):
        orphan.unlink(missing_ok=True)
    for _ in range(2):
        folder = download(listed.repository, listed.revision, kind="dataset", cache=hub_cache(data))
        if folder.name != listed.commit:  # a new commit came in between
            listed = dataclasses.replace(listing(listed.repository, folder.name), revision=listed.revision)
        wrong = [folder / name for name, (size, sha256) in listed.files.items() if not _is(folder / name, size, sha256)]
        if not wrong:
            return [folder / name for name in listed.files]
        for path in wrong:  # huggingface_hub takes what is there for right
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    raise UserError(f"{wrong[0].name} is not the file that the hub lists for {listed.repository}, also when got anew")


def _is(path: Path, size: int, sha256: str | None) -> bool:
    return path.is_file() and path.stat().st_size == size and (sha256 is None or _sha256(path) == sha256)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
