"""Repositories of the Hugging Face hub: downloads that never wait for ever, and faults told in one sentence.

huggingface_hub asks again after a passing fault by itself. What it lacks is a limit for some of its requests, sentences
that say what to do, and downloads that go on where they were cut: those are `model_wrappers.hub_files`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_wrappers import hub_files
from model_wrappers.errors import UserError
from model_wrappers.hub_files import Kind

SECONDS = 20.0
"""How long a request may give nothing before it is asked again or given up: huggingface_hub has no limit for some and a
minute for others. HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT, where they are larger, lengthen it."""


def download(
    repository: str,
    revision: str | None = None,
    *,
    kind: Kind = "model",
    cache: Path | None = None,
    patterns: list[str] | None = None,
) -> Path:
    """The folder of a repository's files in the hub's cache; what is not there yet is downloaded, a file that was cut
    from where it was.

    Args:
        repository: ``owner/name``.
        revision: branch, tag or commit; None is ``main``.
        kind: what the hub calls its type.
        cache: the hub's cache; None is huggingface_hub's own.
        patterns: the files wanted, as globs; None is all.

    Raises:
        UserError: one sentence that names the repository and says what to do.
    """
    with answering(repository, revision, kind):
        try:
            listed = hub_files.listing(repository, revision, kind)
        except Exception:  # without the hub, what is there is enough where it is whole
            if found := cached(repository, revision, kind=kind, cache=cache, patterns=patterns):
                return found
            raise
        if (commit := hub_files.note(listed, cache)) != listed.commit:  # a new commit came in between
            listed = replace(hub_files.listing(repository, commit, kind), revision=listed.revision)
        return hub_files.get(listed, cache, patterns)


def cached(
    repository: str,
    revision: str | None = None,
    *,
    kind: Kind = "model",
    cache: Path | None = None,
    patterns: list[str] | None = None,
) -> Path | None:
    """The folder of a repository's files in the hub's cache; None where they are not there, or not all that the cache
    knows of. Nothing is asked of the hub. Arguments as of `download`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repository,
            repo_type=kind,
            revision=revision,
            cache_dir=cache,
            allow_patterns=patterns,
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found)


@contextmanager
def answering(repository: str, revision: str | None = None, kind: Kind = "model") -> Iterator[None]:
    """The surroundings of calls of huggingface_hub about one repository.

    Raises:
        UserError: for every fault of the hub, of the way to it, or of the disk.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._http import httpx2  # the client that it has chosen for itself

    with _limited():
        try:
            yield
        except HFValidationError as error:
            raise UserError(f"{repository!r} is no name of a {kind} on the hub; names are owner/name") from error
        except (OSError, httpx2.HTTPError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(fault(error, repository, revision, kind)) from error


@contextmanager
def _limited() -> Iterator[None]:
    """Gives each request of huggingface_hub the time limit of this module, where it has none or a longer one."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    before = _http._GLOBAL_CLIENT_FACTORY  # there is no public way to ask for it, and a user's own must stay

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout") or {}
        limits = {part: min(given.get(part) or _limit(), _limit()) for part in ("connect", "read", "write", "pool")}
        request.extensions["timeout"] = limits

    def make() -> Any:
        client = before()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "request": [*hooks.get("request", ()), limit]}
        return client

    set_client_factory(make)
    try:
        yield
    finally:
        set_client_factory(before)


def fault(error: BaseException, repository: str, revision: str | None, kind: Kind) -> str:
    """The sentence for an error of huggingface_hub's, which was asked about a repository."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils._http import httpx2

    chain = list(_chain(error))

    def met(*kinds: type[BaseException]) -> Any:
        return next((each for each in chain if isinstance(each, kinds)), None)

    hub = constants.ENDPOINT
    what = f"the {kind} {repository}"
    page = f"{hub}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    if met(errors.OfflineModeIsEnabled):
        at = f" at revision {revision}" if revision else ""
        return f"{what}{at} is not in the hub's cache, and HF_HUB_OFFLINE forbids to ask the hub; unset it"
    if met(errors.GatedRepoError):
        return f"{what} is gated: accept its terms at {page} and log in with `hf auth login` (or set HF_TOKEN)"
    if met(errors.RevisionNotFoundError):
        return f"{what} has no revision {revision or 'main'} on the hub ({page}); name a branch or commit that it has"
    if met(errors.RepositoryNotFoundError):
        return f"{what} is not on the hub ({hub}), or is private: check its name, or log in with `hf auth login`"
    if (found := met(errors.HfHubHTTPError)) is not None:
        return f"{what} cannot be had: {_status(found.response.status_code, hub)}"
    if met(httpx2.TimeoutException):
        return (
            f"{what} cannot be had: the hub ({hub}) gave nothing for {_limit():g} seconds, asked again and again; "
            "repeat the command later, what was downloaded is kept"
        )
    if met(httpx2.HTTPError):
        return (
            f"{what} cannot be had: the connection to the hub ({hub}) fails ({_first_line(chain[-1])}); "
            "check the network, and repeat the command: what was downloaded is kept"
        )
    return f"{what} cannot be downloaded: {_first_line(error)}"


def _limit() -> float:
    from huggingface_hub import constants

    return max(SECONDS, constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT)


def _status(code: int, hub: str) -> str:
    if code in (401, 403):
        return f"the hub ({hub}) refuses it ({code}); log in with `hf auth login` as someone who may read it"
    if code == 404:
        return f"the hub ({hub}) lacks one of its files (404)"
    if code == 429:
        return f"the hub ({hub}) was asked too often (429); repeat the command later, what was downloaded is kept"
    if code >= 500:
        return f"the hub ({hub}) fails ({code}); repeat the command later, what was downloaded is kept"
    return f"the hub ({hub}) answers with status {code}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return said.splitlines()[0].rstrip(".")
