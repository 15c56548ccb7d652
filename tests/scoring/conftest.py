"""An OpenAI-compatible judge on the loopback interface, which answers as the test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.scoring.judge import JudgeConfig

KEY = "sk-very-secret-1234"


class LoopbackJudge:
    """Answers each request with the next of `script`, then with `reply(payload)`.

    An entry of `script` is a status, a (status, headers) pair, `hang`, `cut` (half a body, then nothing), `close`
    (nothing at all) or bytes to send as the body. `usage`: what it says of tokens; None: nothing.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.reply: Callable[[dict[str, Any]], str] = lambda payload: "OK"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.usage: Any = None
        self.released = threading.Event()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.requests.append(payload)
                judge.headers.append({"path": self.path, **dict(self.headers)})
                step = judge.script.pop(0) if judge.script else None
                if step == "hang":
                    judge.released.wait(20)
                    return
                if step == "close":
                    self.connection.close()
                    return
                status, headers = step if isinstance(step, tuple) else (step, {})
                body: dict[str, Any] = {
                    "model": "served-judge",
                    "choices": [{"message": {"role": "assistant", "content": judge.reply(payload)}}],
                }
                if judge.usage is not None:
                    body["usage"] = judge.usage
                content = step if isinstance(step, bytes) else json.dumps(body).encode()
                self.send_response(status if isinstance(status, int) else 200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if step == "cut" else content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def config(self, folder: Path, **settings: Any) -> JudgeConfig:
        """A JudgeConfig for this server, impatient enough for a test."""
        return JudgeConfig(
            self.url, "test-judge", **{"timeout": 5.0, "max_retries": 3, "backoff": 0.01, "cache": folder, **settings}
        )


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackJudge]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    judge = LoopbackJudge()
    thread = threading.Thread(target=judge.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield judge
    judge.released.set()
    judge.server.shutdown()
    thread.join()
    judge.server.server_close()
