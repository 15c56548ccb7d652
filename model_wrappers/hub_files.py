"""The files of a repository of the hub, into the hub's cache: gone on with where they were cut, and stopped at once.

huggingface_hub (2.4) writes each file under a name that it never looks for again, so that a download which is killed
begins anew and leaves what it had; its threads hold Ctrl-C up until their files are complete; and Xet knows no time
limit. Large files therefore come by `model_wrappers.download`, into the place of the cache where huggingface_hub then
finds them and links to them, and all of them one after another in the thread that asks. The cache's layout is
documented: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from model_wrappers.download import Told

Kind = Literal["model", "dataset"]
PART = ".part"
"""The end of a large file's name in `blobs/` while it is downloaded."""


@dataclass(frozen=True)
class Listing:
    """A revision of a repository. `files`: by path, its size in bytes and, where the hub tells it, its sha256."""

    repository: str
    kind: Kind
    revision: str
    commit: str
    files: dict[str, tuple[int, str | None]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def home(repository: str, kind: Kind, cache: Path | None) -> Path:
    """The folder of a repository in a cache of the hub (None: huggingface_hub's own)."""
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}"


def listing(repository: str, revision: str | None, kind: Kind) -> Listing:
    """Ask the hub what a repository holds. Raises huggingface_hub's errors."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    commit = str(api.repo_info(repository, repo_type=kind, revision=revision).sha)
    tree = api.list_repo_tree(repository, repo_type=kind, revision=commit, recursive=True)
    files = {
        entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in tree
        if isinstance(entry, RepoFile)
    }
    return Listing(repository, kind, revision or "main", commit, files)


def get(listed: Listing, cache: Path | None, patterns: list[str] | None) -> Path:
    """Download what the cache lacks of the files that `patterns` name (None: of all); the folder where they are.

    Raises huggingface_hub's errors, and UserError as `model_wrappers.download.download` does.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import filter_repo_objects, tqdm

    kept = home(listed.repository, listed.kind, cache)
    folder = kept / "snapshots" / listed.commit
    wanted = filter_repo_objects(listed.files, allow_patterns=patterns)
    lacking = sorted((path for path in wanted if not (folder / path).exists()), key=lambda path: listed.files[path][0])
    total = sum(listed.files[path][0] for path in lacking)
    with tqdm(total=total, unit="B", unit_scale=True, desc=listed.repository, disable=None if lacking else True) as bar:
        for path in lacking:
            size, sha256 = listed.files[path]
            if sha256 is None:
                bar.update(size)
            else:
                _large(listed, path, sha256, kept, bar.update)
            hf_hub_download(
                listed.repository,
                path,
                repo_type=listed.kind,
                revision=listed.commit,
                cache_dir=cache,
                tqdm_class=_silent(),
            )
    return folder


def note(listed: Listing, cache: Path | None) -> str:
    """Has huggingface_hub keep the list of a revision's files, by which it later knows whether all are there, and which
    commit the revision is; that commit. Raises its errors.
    """
    from huggingface_hub import snapshot_download

    logger = logging.getLogger(snapshot_download.__module__)
    before, logger.disabled = logger.disabled, True  # it warns that no file is wanted, as is meant here
    try:
        folder = snapshot_download(
            listed.repository,
            repo_type=listed.kind,
            revision=listed.revision,
            cache_dir=cache,
            allow_patterns=[],
            tqdm_class=_silent(),
        )
    finally:
        logger.disabled = before
    return Path(folder).name


def _large(listed: Listing, path: str, sha256: str, kept: Path, told: Told) -> None:
    """Get one file into `blobs/`, where no other process is at it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    from model_wrappers.download import download  # here, since it loads requests

    blob = kept / "blobs" / sha256
    lock = kept.parent / ".locks" / kept.name / f"{sha256}.lock"  # huggingface_hub's own
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            told(blob.stat().st_size)
            return
        url = hf_hub_url(listed.repository, path, repo_type=listed.kind, revision=listed.commit)
        get_hf_file_metadata(url, retry_on_errors=True)  # a file that is gated or gone is told in the hub's own words
        download(url, blob, ("sha256", sha256), told, build_hf_headers())


def _silent() -> Any:
    """A progress bar that shows nothing, for huggingface_hub."""
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

    return Silent
