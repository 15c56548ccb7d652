"""One file over HTTP: resumed where it was cut, verified, and put in place whole.

TLS certificates are verified; what VLMEvalKit does to urllib's when it is imported does not reach `requests`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import requests
import tenacity

from model_wrappers.errors import UserError

CONNECT, READ = 10.0, 30.0
"""Seconds until a server must have accepted a connection, and between any two pieces of its answer."""
TRIES = 6
"""How often in a row a server may give nothing new before the download is given up."""
_PIECE = 1 << 16
"""Bytes that are written at once; of a piece that is cut, nothing is kept."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
Checksum = tuple[Literal["md5", "sha256"], str]
Told = Callable[[int], Any]
"""Called with the bytes got since the last call; negative where a download begins anew."""


class _Passing(Exception):
    """A fault that may be gone when the server is asked again."""


def size_of(url: str) -> int | None:
    """How many bytes a server says that a file has; None where it does not say. UserError as from `download`."""
    response, problem = _again(lambda: _ask("HEAD", url), url)
    response.close()
    if response.status_code in (405, 501):  # a server that gives files and does not tell of them
        return None
    if problem:
        raise UserError(problem)
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def download(
    url: str,
    target: Path,
    checksum: Checksum,
    told: Told = lambda _: None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Get the file at `url` as `target`, which appears when it is complete and has the checksum.

    What was got is in `<target>.part` meanwhile, and gone on with the next time. Where `target` is there and right,
    nothing is asked for. `headers` are sent with each request, a server's key to no other server than that of `url`.

    Raises UserError, naming the address, for a server that refuses, fails or stops answering; for other bytes than the
    checksum says (they are thrown away); for a disk that takes no more.
    """
    part = target.with_name(f"{target.name}.part")
    if target.is_file() and _digest(target, checksum[0]) == checksum[1]:
        told(target.stat().st_size)
        return None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.exists():
            told(part.stat().st_size)
        resumed = part.exists()
        _again(lambda: _more(url, part, told, headers or {}), url, lambda: _length(part))
        if _digest(part, checksum[0]) != checksum[1]:
            # What was there before may have been of an older file: the second time it is all of one.
            told(-_length(part))
            part.unlink()
            if resumed:
                return download(url, target, checksum, told, headers)
            raise UserError(f"{url} gives a file with another {checksum[0]} than the published {checksum[1]}")
        part.replace(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}); what is there is kept") from error
    return None


def _more(url: str, part: Path, told: Told, headers: Mapping[str, str]) -> None:
    """Ask for what `part` lacks, once."""
    start = _length(part)
    response, problem = _ask("GET", url, {**headers, **({"Range": f"bytes={start}-"} if start else {})})
    with response:
        if response.status_code == 416:  # nothing lies behind what is there; the checksum tells whether it is all
            return
        if problem:
            raise UserError(problem)
        if start and response.status_code != 206:
            told(-start)
            start = 0
        expected = response.headers.get("Content-Length", "")
        try:
            with part.open("ab" if start else "wb") as file:
                for piece in response.iter_content(_PIECE):
                    file.write(piece)
                    told(len(piece))
        except requests.RequestException as error:
            raise _Passing(f"cut the connection ({_kind(error)})") from error
    if expected.isdigit() and _length(part) != start + int(expected):
        raise _Passing("cut the connection")


def _ask(method: str, url: str, headers: dict[str, str] | None = None) -> tuple[requests.Response, str]:
    """The server's answer, and what is wrong with it in a sentence (empty: nothing). Raises _Passing."""
    try:
        response = requests.request(
            method,
            url,
            # Not compressed on the way: lengths and ranges shall count the file's own bytes.
            headers={**(headers or {}), "Accept-Encoding": "identity"},
            auth=_as_given,
            timeout=(CONNECT, READ),
            stream=True,
            allow_redirects=True,
        )
    except requests.exceptions.SSLError as error:
        raise UserError(f"{url} is not trusted: its certificate cannot be verified ({_kind(error)})") from error
    except requests.Timeout as error:
        raise _Passing(f"gave nothing for {READ:g} seconds") from error
    except requests.RequestException as error:
        raise _Passing(f"cannot be reached ({_kind(error)})") from error
    if response.status_code in _PASSING:
        response.close()
        raise _Passing(f"fails ({response.status_code})")
    if response.status_code == 416 or response.ok:
        return response, ""
    reason = {401: "refuses it", 403: "refuses it", 404: "has no such file", 410: "has it no more"}
    return response, f"{url}: the server {reason.get(response.status_code, 'refuses it')} ({response.status_code})"


def _as_given(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from putting a password of the user's netrc in the place of a header that was given."""
    return request


def _again(ask: Callable[[], Any], url: str, got: Callable[[], int] = lambda: 0) -> Any:
    """What `ask` returns, asked again after passing faults until the server gave nothing new `TRIES` times."""
    in_vain, before = 0, got()

    def enough(state: tenacity.RetryCallState) -> bool:
        nonlocal in_vain, before
        in_vain, before = (0 if got() > before else in_vain + 1), got()
        return in_vain >= TRIES

    try:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            stop=enough,
            wait=tenacity.wait_exponential(max=20),
            reraise=True,
        )(ask)
    except _Passing as error:
        raise UserError(
            f"{url}: the server {error}, {TRIES} times in a row; repeat the command later, what was downloaded is kept"
        ) from error


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _kind(error: BaseException) -> str:
    return type(error).__name__
