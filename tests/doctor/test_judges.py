"""A judge that answers, refuses, has retired, is silent; and its key, which nobody sees."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from harness.doctor import judges
from harness.doctor.check import Check
from harness.experiments import Experiment, Judge, load

KEY = "sk-a-key-that-nobody-may-see-1234567890"


class Desk:
    """What a judge's server answers, and the keys that it was given."""

    def __init__(self) -> None:
        self.status, self.body, self.keys = 200, json.dumps({"data": [{"id": "gpt-4-turbo"}]}), list[str]()
        self.url = ""


@pytest.fixture
def desk() -> Iterator[Desk]:
    found = Desk()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.keys.append(self.headers.get("Authorization", ""))
            known = self.path == "/v1/models"
            self.send_response(found.status if known else 404)
            self.end_headers()
            self.wfile.write(found.body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def asked(url: str, model: str = "gpt-4-turbo", **more: Any) -> Experiment:
    judge = Judge(base_url=url, model=model, **{"key_env": "OPENAI_API_KEY", **more})
    return load("table2", "paper").model_copy(update={"judges": {"MMVet": judge}})


def look(url: str, **more: Any) -> Check:
    (check,) = judges.checks([asked(url, **more)])
    assert KEY not in repr(check)
    return check


def test_one_that_answers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    check = look(desk.url)
    assert (check.state, check.name) == ("ok", "gpt-4-turbo for MMVet") and desk.url in check.said
    assert desk.keys == [f"Bearer {KEY}"], "one request, with the key"


@pytest.mark.parametrize(
    ("status", "body", "state", "said"),
    [
        (401, "{}", "missing", "refuses the key in OPENAI_API_KEY (HTTP 401)"),
        (403, "{}", "missing", "refuses the key in OPENAI_API_KEY (HTTP 403)"),
        (500, "{}", "missing", "answers HTTP 500"),
        (404, "{}", "warning", "does not tell its models (HTTP 404)"),
        (200, "no json", "warning", "does not tell its models (HTTP 200)"),
        (200, '{"data": [{"id": "gpt-9"}]}', "missing", "has no such model; it may have been retired"),
        (302, "{}", "warning", "does not tell its models (HTTP 302)"),
    ],
)
def test_one_that_does_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, status: int, body: str, state: str, said: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    desk.status, desk.body = status, body
    check = look(desk.url)
    assert check.state == state and said in check.said


def test_no_key_asks_nobody(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    check = look(desk.url)
    assert (check.state, desk.keys) == ("missing", [])
    assert check.said == "judge gpt-4-turbo: the environment variable OPENAI_API_KEY with its key is not set"
    assert look(desk.url, key_env=None).state == "ok", "a server of one's own may want none"


def test_one_whose_last_day_has_passed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said whether it still answers or not; of a server of one's own nobody announced anything."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    old = "gpt-4-1106-preview"
    over = f"OpenAI announced 2026-03-26 as the last day of {old}, and another judge gives other numbers"
    desk.body = json.dumps({"data": [{"id": old}]})
    assert look(desk.url, model=old).said == f"{desk.url} answers and has it"
    monkeypatch.setattr("harness.judging.models.is_openai", lambda _: True)
    check = look(desk.url, model=old)
    assert (check.state, check.said) == ("warning", f"{desk.url} answers and has it; {over}")
    desk.body = json.dumps({"data": []})
    check = look(desk.url, model=old)
    assert check.state == "missing" and check.said.endswith(f"it may have been retired; {over}")


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    check = look("http://127.0.0.1:9/v1")
    assert check.state == "missing" and check.said == "http://127.0.0.1:9/v1 does not answer (ConnectionError)"


def test_wordnet_where_wups_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table3 = load("table3", "paper").model_copy(update={"judges": {}, "benchmarks": ["NExT-QA-OE"]})
    monkeypatch.setattr("harness.scoring.wordnet.places", lambda: [])
    (check,) = judges.checks([table3])
    assert (check.name, check.state) == ("WordNet", "missing") and "apt-get install wordnet-base" in check.said
    (check,) = judges.checks([table3.model_copy(update={"judge": "exact"})])
    assert check.name == "none"
