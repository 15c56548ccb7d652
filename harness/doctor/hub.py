"""What the hub says of a repository that is to be downloaded: quickly, or not at all."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_wrappers.hub import Kind, fault

PATIENCE = 10.0
"""Seconds for everything that the hub is asked at once."""
TIMEOUT = 5.0
"""Seconds for one answer of it."""


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a revision (None: its main branch), and which of its files are wanted."""

    kind: Kind
    name: str
    revision: str | None
    wanted: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Found:
    """What the hub says: the size of the wanted files in bytes, by path and in all, or in `problem` why it does not
    tell.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    commit: str | None = None
    problem: str = ""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


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
    return {each: found.get(each, _late(PATIENCE)) for each in repositories}


def _late(seconds: float) -> Found:
    from huggingface_hub import constants

    return Found(problem=f"the hub at {constants.ENDPOINT} does not answer in {seconds:g} seconds")


def _asked(api: Any, repository: Repository) -> Found:
    from huggingface_hub.utils._http import httpx2

    try:
        info: Any = api.repo_info(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            timeout=TIMEOUT,
            files_metadata=True,
        )
    except httpx2.TimeoutException:
        return _late(TIMEOUT)
    except (OSError, httpx2.HTTPError, ValueError) as error:
        return Found(problem=fault(error, repository.name, repository.revision, repository.kind))
    files = [each for each in info.siblings or [] if _wanted(each.rfilename, repository.wanted)]
    return Found({each.rfilename: each.size or 0 for each in files}, info.sha)


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
