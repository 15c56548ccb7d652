"""A small hub on loopback: enough of its HTTP interface for the real client to ask about and download repositories."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server has: repositories by kind and name (`models/owner/name`), each a folder here at `COMMIT`.

    `answer`: a status that every request gets instead, such as 500. `asked`: the paths that were asked for.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.answer: int | None = None
        self.delay = threading.Event()
        self.delay.set()
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """The hub for the time of the `with`; its address is `url`."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append(self.path)
            hub.delay.wait(30)
            status, headers, body = _reply(hub, self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.delay.set()
        server.shutdown()
        server.server_close()


def _reply(hub: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
    path = path.partition("?")[0]
    if hub.answer is not None:
        return hub.answer, {}, b"{}"
    if path.startswith("/api/") and path.count("/") >= 4:
        kind, owner, name, *rest = path.removeprefix("/api/").split("/")
        folder, revision = hub.repositories.get(f"{kind}/{owner}/{name}"), rest[1] if rest else "main"
        if folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if revision not in ("main", "video", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = [
            {"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size, "blobId": "0" * 40}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": "0" * 40} for file in files
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        said = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": files, "private": False, "tags": [], "downloads": 0}
        return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()
    where, _, rest_of = path[1:].partition("/resolve/")
    kind, name = ("models", where) if where.count("/") == 1 else where.split("/", 1)
    folder = hub.repositories.get(f"{kind}/{name}")
    file = folder / rest_of.partition("/")[2] if folder else None
    if file is None or not file.is_file():
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    body = file.read_bytes()
    return 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}, body
