"""A hub on this machine, asked as the real one is: repositories, revisions, ranges, and faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """What a repository holds: its files by path, and the branches that lead to its one commit."""

    files: dict[str, bytes]
    branches: tuple[str, ...] = ("main",)
    commit: str = COMMIT


@dataclass
class Hub:
    """A running hub. `faults`: called with each request; what it returns is done to it (None: it is answered).

    A fault is a status (with the hub's own words for what is gated), `"hang"`, `"cut"` (half of the file is sent),
    `"stall"` (so, and the connection stays open), or the address that the request is sent on to.
    """

    url: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    """Files at addresses of their own, such as `/MME.tsv`."""
    faults: Callable[[BaseHTTPRequestHandler], Any] = lambda _: None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of each request."""
    over: threading.Event = field(default_factory=threading.Event)

    def gets(self, end: str) -> list[str | None]:
        """The ranges of the GET requests whose path has this end."""
        return [span for method, path, span in self.asked if method == "GET" and path.endswith(end)]


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder as a repository holds them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub without a repository, until the end of the `with`."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.2) -> None:
    """Has this process ask `hub`, wait `seconds` where it hangs, and not pause before it asks again."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    from model_wrappers import hub as ours

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", seconds)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", seconds)
    monkeypatch.setattr(ours, "SECONDS", seconds)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.asked.append((self.command, path, self.headers.get("Range")))
        fault = self.state.faults(self)
        if fault == "hang":
            self.state.over.wait(60)
            self.close_connection = True
        elif isinstance(fault, int):
            self._refuse(fault, "GatedRepo" if fault == 403 else None)
        elif isinstance(fault, str) and fault.startswith("http"):
            self._send(302, b"", {"Location": fault})
        elif (found := API.fullmatch(path)) is not None:
            self._api(*found.groups())
        elif (found := FILE.fullmatch(path)) is not None:
            repository = (self.state.datasets if found[1] else self.state.models).get(found[2])
            if repository is None or found[4] not in repository.files:
                self._refuse(404, "RepoNotFound" if repository is None else "EntryNotFound")
            else:
                self._file(repository.files[found[4]], fault, {"X-Repo-Commit": repository.commit})
        elif path in self.state.plain:
            self._file(self.state.plain[path], fault, {})
        else:
            self._refuse(404, None)

    def _api(self, kind: str, name: str, what: str | None, revision: str | None) -> None:
        repository = getattr(self.state, kind).get(name)
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        if revision not in (None, *repository.branches, repository.commit):
            return self._refuse(404, "RevisionNotFound")
        entries = [
            {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
                "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134},
            }
            for path, content in repository.files.items()
        ]
        siblings = [{"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]} for entry in entries]
        about = {"id": name, "sha": repository.commit, "private": False, "gated": False, "siblings": siblings}
        return self._send(200, json.dumps(entries if what == "tree" else about).encode(), {})

    def _file(self, content: bytes, fault: Any, headers: dict[str, str]) -> None:
        headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(span[1]) if span else 0
        if start >= len(content) > 0:
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        if span:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206 if span else 200, content[start:], headers, fault)

    def _refuse(self, status: int, code: str | None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"} if code else {})

    def _send(self, status: int, content: bytes, headers: dict[str, str], fault: Any = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = fault in ("cut", "stall")
        self.wfile.write(content[: len(content) // 2] if half else content)
        if fault == "stall":
            self.state.over.wait(60)
        if half:
            self.close_connection = True
