"""What the hub's cache has of a repository, and what the hub itself says of it: quickly, or not at all."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PATIENCE = 10.0
"""Seconds for everything that the hub is asked at once."""
TIMEOUT = 5.0
"""Seconds for one answer of it."""


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a revision (None: its main branch), and which of its files are wanted."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str | None
    wanted: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Found:
    """What the hub says: the size of the wanted files in bytes, or in `problem` why it does not tell."""

    bytes: int = 0
    commit: str | None = None
    problem: str = ""


def cached(repository: Repository, cache: Path | None = None) -> Path | None:
    """The folder of a repository in the cache, whole or not; None where there is none. Nothing is asked of the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository.name,
                repo_type=repository.kind,
                revision=repository.revision,
                cache_dir=cache,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None


def half(repository: Repository, cache: Path | None = None) -> int:
    """How many of its files are half downloaded."""
    from huggingface_hub import constants

    root = cache or Path(constants.HF_HUB_CACHE)
    folder = root / f"{repository.kind}s--{repository.name.replace('/', '--')}" / "blobs"
    return len(list(folder.glob("*.incomplete")))


def ask(repositories: Sequence[Repository]) -> dict[Repository, Found]:
    """What the hub says of each, all asked at once; one that does not answer in time is told so."""
    from huggingface_hub import HfApi, constants  # here, so that loading it is not part of the patience

    if constants.HF_HUB_OFFLINE:
        return {each: Found(problem="the hub is not asked, since HF_HUB_OFFLINE is set") for each in repositories}
    found: dict[Repository, Found] = {}

    def one(repository: Repository) -> None:
        found[repository] = _asked(HfApi(), repository)

    threads = [threading.Thread(target=one, args=(each,), daemon=True) for each in dict.fromkeys(repositories)]
    for thread in threads:
        thread.start()
    clock = threading.Event()
    timer = threading.Timer(PATIENCE, clock.set)
    timer.daemon = True
    timer.start()
    for thread in threads:
        while thread.is_alive() and not clock.is_set():
            thread.join(0.1)
    timer.cancel()
    late = Found(problem=f"the hub at {constants.ENDPOINT} does not answer in {PATIENCE:g} seconds")
    return {each: found.get(each, late) for each in repositories}


def _asked(api: Any, repository: Repository) -> Found:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"the hub at {constants.ENDPOINT}"
    try:
        info: Any = api.repo_info(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            timeout=TIMEOUT,
            files_metadata=True,
        )
    except GatedRepoError:
        said = f"{where} gives {repository.name} to those alone who were granted it: log in with `hf auth login`"
        return Found(problem=said)
    except RevisionNotFoundError:
        return Found(problem=f"{where} has no revision {repository.revision} of {repository.name}")
    except RepositoryNotFoundError:
        return Found(problem=f"{where} has no {repository.kind} {repository.name}, or not for you")
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        return Found(problem=f"{where} answers {status} about {repository.name}")
    except Exception as error:  # of the HTTP library behind the client, which is not ours to name
        return Found(problem=f"{where} does not answer ({type(error).__name__})")
    files = [each for each in info.siblings or [] if _wanted(each.rfilename, repository.wanted)]
    return Found(sum(each.size or 0 for each in files), info.sha)


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
