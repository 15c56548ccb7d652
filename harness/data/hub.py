"""A data set of the hub: what it holds, and its download into a data folder, verified."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.vlmevalkit import hub_cache
from model_wrappers.errors import UserError
from model_wrappers.hub import Kind, answering, download


@dataclass(frozen=True)
class Listing:
    """A revision of a data set. `files`: by path, its size in bytes and, where the hub tells it, its sha256."""

    repository: str
    revision: str
    commit: str
    files: dict[str, tuple[int, str | None]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def snapshot(repository: str, revision: str, data: Path) -> Path | None:
    """The folder with the files of a data set in the hub cache of `data`, or None; it need not be whole."""
    folder = _folder(repository, "dataset", hub_cache(data))
    reference = folder / "refs" / revision
    if not reference.is_file():
        return None
    found = folder / "snapshots" / reference.read_text(encoding="utf-8").strip()
    return found if found.is_dir() else None


def half(repository: str, kind: Kind, cache: Path) -> int:
    """How many files of a repository are half downloaded in a cache of the hub, by whichever program."""
    return sum(1 for _ in (_folder(repository, kind, cache) / "blobs").glob("*.incomplete"))


def _folder(repository: str, kind: Kind, cache: Path) -> Path:
    return cache / f"{kind}s--{repository.replace('/', '--')}"


def listing(repository: str, revision: str) -> Listing:
    """Ask the hub what a data set holds. UserError where it does not say."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with answering(repository, revision, "dataset"):
        api = HfApi()
        commit = str(api.dataset_info(repository, revision=revision).sha)
        tree = api.list_repo_tree(repository, repo_type="dataset", revision=commit, recursive=True)
        files = {
            entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, RepoFile)
        }
    return Listing(repository, revision, commit, files)


def fetch(listed: Listing, data: Path) -> list[Path]:
    """Download what the cache of `data` lacks of a data set, and verify all of it; its files.

    Raises UserError for a fault of the hub, and for a file that is not what the hub lists, also when got anew.
    """
    wrong: list[Path] = []
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
