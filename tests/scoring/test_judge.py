"""The HTTP judge against a real server on the loopback interface: good, slow, broken and silent."""

from __future__ import annotations

import json
import logging
import ssl
import time
import traceback
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from harness.judging.account import Account
from harness.judging.models import OPENAI, Price
from harness.scoring.judge import Judge, JudgeConfig, JudgeError, Question
from model_wrappers.errors import UserError
from tests.scoring.conftest import KEY, LoopbackJudge

ASKED = Question("Is it red?", "You are a judge.", max_tokens=7)


def lines(folder: Path, model: str = "test-judge") -> list[dict[str, Any]]:
    """The ledger of a judge."""
    return [json.loads(line) for line in (folder / f"{model}.jsonl").read_text().splitlines()]


def test_a_request_is_what_the_interface_wants(loopback: LoopbackJudge, tmp_path: Path) -> None:
    assert Judge(loopback.config(tmp_path)).ask(ASKED) == "OK"
    assert loopback.requests == [
        {
            "model": "test-judge",
            "messages": [
                {"role": "system", "content": "You are a judge."},
                {"role": "user", "content": "Is it red?"},
            ],
            "temperature": 0,
            "max_tokens": 7,
        }
    ]
    assert loopback.headers[0]["path"] == "/v1/chat/completions"
    assert loopback.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_the_whole_url_may_be_given(loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.url += "/chat/completions"
    assert Judge(loopback.config(tmp_path)).ask(ASKED) == "OK"
    assert loopback.headers[0]["path"] == "/v1/chat/completions"


def test_reasoning_models_are_asked_in_their_own_way(loopback: LoopbackJudge, tmp_path: Path) -> None:
    config = JudgeConfig(loopback.url, "gpt-5-mini", cache=tmp_path)
    Judge(config).ask(ASKED)
    assert "temperature" not in loopback.requests[0] and loopback.requests[0]["max_completion_tokens"] >= 4096


def test_what_was_asked_before_is_not_asked_again(loopback: LoopbackJudge, tmp_path: Path) -> None:
    config = loopback.config(tmp_path)
    assert [Judge(config).ask(ASKED) for _ in range(3)] == ["OK"] * 3
    assert len(loopback.requests) == 1
    loopback.reply = lambda payload: "another"
    for other in (Question("Is it blue?"), Question("Is it red?"), Question("Is it red?", "You are a judge.", 8)):
        assert Judge(config).ask(other) == "another"
    other_model = JudgeConfig(loopback.url, "test/judge 2", cache=tmp_path)
    assert Judge(other_model).ask(ASKED) == "another"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locks", "test-judge-2.jsonl", "test-judge.jsonl"]


@pytest.mark.parametrize(
    "script",
    [
        [429],
        [500, 502, 503],
        [b"<html>gateway</html>"],
        [b"{}", b'{"choices": []}'],
        [b'{"choices": [{"message": null}]}', b"null"],
        ["cut", "close"],
    ],
)
def test_passing_trouble_is_waited_out(script: list[Any], loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.script = list(script)
    assert Judge(loopback.config(tmp_path)).ask(ASKED) == "OK"
    assert len(loopback.requests) == len(script) + 1


@pytest.mark.parametrize("after", ["0.4", "date"])
def test_retry_after_is_obeyed(after: str, loopback: LoopbackJudge, tmp_path: Path) -> None:
    value = formatdate(time.time() + 2, usegmt=True) if after == "date" else after
    loopback.script = [(429, {"Retry-After": value})]
    started = time.monotonic()
    assert Judge(loopback.config(tmp_path)).ask(ASKED) == "OK"
    assert time.monotonic() - started > 0.35  # the configured backoff is 0.01


def test_a_retry_after_of_hours_is_cut_to_max_wait(loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.script = [(503, {"Retry-After": "7200"})]
    assert Judge(loopback.config(tmp_path, max_wait=0.05)).ask(ASKED) == "OK"


@pytest.mark.parametrize(
    ("step", "said"),
    [(500, "HTTP 500"), (429, "HTTP 429"), (b"garbage", "no chat completion"), ("hang", "no answer within 0.2 s")],
)
def test_a_judge_that_stays_down(step: Any, said: str, loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.script = [step] * 50
    with pytest.raises(JudgeError, match=said) as error:
        Judge(loopback.config(tmp_path, timeout=0.2, max_retries=2)).ask(ASKED)
    assert "after 3 tries" in str(error.value) and "run again" in str(error.value)
    assert len(loopback.requests) == 3
    # Where the server may have worked, the call may have to be paid for.
    lost = lines(tmp_path) if (tmp_path / "test-judge.jsonl").exists() else []
    assert [line["outcome"] for line in lost] == (["lost"] * 3 if step in ("hang", b"garbage") else [])


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    config = JudgeConfig("http://127.0.0.1:9", "m", max_retries=1, backoff=0.01, timeout=1, cache=tmp_path)
    with pytest.raises(JudgeError, match="connection failed"):
        Judge(config).ask(ASKED)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_repeated(status: int, loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.script = [status]
    with pytest.raises(JudgeError, match=f"HTTP {status}.*OPENAI_API_KEY"):
        Judge(loopback.config(tmp_path)).ask(ASKED)
    assert len(loopback.requests) == 1


ECHO = json.dumps({"model": KEY, "choices": [{"message": {"content": f"your key is {KEY}"}}]}).encode()


@pytest.mark.parametrize(
    "step",
    [200, 400, 401, 404, 429, 500, 301, "hang", "close", "cut", b"garbage", KEY.encode(), ECHO, "refused", "limit"],
)
def test_the_key_is_neither_logged_nor_stored_nor_shown(
    step: Any, loopback: LoopbackJudge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loopback.script = [(step, {"Location": loopback.url}) if step == 301 else step] * 9
    account = Account(tmp_path, "t", limit=0.0 if step == "limit" else None)
    settings = {"timeout": 0.3, "max_retries": 1, "account": account, "price": Price(1.0, 1.0)}
    if step == "refused":
        loopback.server.server_close()
    judge = Judge(loopback.config(tmp_path, **settings))
    seen = ""
    with caplog.at_level(logging.DEBUG):
        try:
            seen += str(judge.ask(ASKED))
        except JudgeError as error:
            # As a crash reporter would: every frame with its variables, but for this test's own.
            assert error.__traceback__ is not None
            frames = (type(error), error, error.__traceback__.tb_next)
            seen += "".join(traceback.TracebackException(*frames, capture_locals=True).format())
            seen += repr(error.__cause__) + repr(error.__context__)
        else:
            assert step in (200, ECHO)
    judge.ask_all({0: Question("another")}, bool)
    assert (account.stopped == {}) == (step in (200, ECHO)), account.stopped
    assert all(headers["Authorization"].endswith(KEY) for headers in loopback.headers)
    seen += caplog.text + repr(judge) + repr(judge.config) + json.dumps(account.stopped)
    seen += "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in seen


@pytest.mark.parametrize("url", ["https://me:secret@127.0.0.1/v1", "https://127.0.0.1/v1?api-key=secret"])
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str, loopback: LoopbackJudge, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="as key_env") as error:
        Judge(JudgeConfig(url, "m", cache=tmp_path))
    assert "secret" not in str(error.value)


def test_a_redirect_is_not_followed(loopback: LoopbackJudge, tmp_path: Path) -> None:
    loopback.script = [(307, {"Location": loopback.url + "/elsewhere"})]
    with pytest.raises(JudgeError, match="HTTP 307"):
        Judge(loopback.config(tmp_path)).ask(ASKED)
    assert len(loopback.requests) == 1


def test_a_model_that_openai_serves_no_more_is_said(loopback: LoopbackJudge, tmp_path: Path) -> None:
    """Its server is not asked here: the sentence is made from the settings of the refused judge."""
    judge = Judge(JudgeConfig(OPENAI, "gpt-4-1106-preview", cache=tmp_path))
    assert "OpenAI announced 2026-03-26 as the last day of that model" in judge.endpoint.refusal(404)
    other = Judge(loopback.config(tmp_path))
    assert "announced" not in other.endpoint.refusal(404)


def test_a_netrc_entry_does_not_replace_the_key(
    loopback: LoopbackJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    Judge(loopback.config(tmp_path / "cache")).ask(ASKED)
    assert loopback.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_an_untrusted_certificate_ends_it(
    loopback: LoopbackJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parent / "self-signed-localhost.pem")
    loopback.server.socket = context.wrap_socket(loopback.server.socket, server_side=True)
    # What `import vlmeval` does to the process must make no difference.
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    loopback.url = loopback.url.replace("http:", "https:")
    with pytest.raises(JudgeError, match="not trusted"):
        Judge(loopback.config(tmp_path)).ask(ASKED)
    assert loopback.requests == []


def test_the_key_must_be_there_and_the_url_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loopback: LoopbackJudge
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        Judge(loopback.config(tmp_path))
    assert Judge(loopback.config(tmp_path, key_env=None)).ask(ASKED) == "OK"
    assert "Authorization" not in loopback.headers[0]
    with pytest.raises(UserError, match="must start with http"):
        Judge(JudgeConfig("localhost:8000", "m", key_env=None, cache=tmp_path))


def test_a_reply_that_is_no_verdict_is_asked_for_again_and_not_kept(loopback: LoopbackJudge, tmp_path: Path) -> None:
    replies = iter(["well ...", "2"])
    loopback.reply = lambda payload: next(replies)
    assert Judge(loopback.config(tmp_path)).ask(ASKED, str.isdigit) == "2"
    loopback.reply = lambda payload: "never a number"
    judge = Judge(loopback.config(tmp_path))
    assert judge.ask(Question("other"), str.isdigit) is None
    assert len(loopback.requests) == 5
    loopback.reply = lambda payload: "3"
    assert judge.ask(Question("other"), str.isdigit) == "3"


def test_a_torn_line_is_dropped_and_the_rest_kept(loopback: LoopbackJudge, tmp_path: Path) -> None:
    config = loopback.config(tmp_path)
    Judge(config).ask(ASKED)
    path = tmp_path / "test-judge.jsonl"
    path.write_text(path.read_text() + '{"key": "abc", "rep')
    Judge(config).ask(Question("after the kill"))
    assert Judge(config).ask(ASKED) == "OK"
    assert len(loopback.requests) == 2
    written = path.read_text().splitlines()
    assert len(written) == 3 and json.loads(written[2])["asked"][0]["content"] == "after the kill"


def test_many_questions_keep_their_keys_and_a_break_keeps_what_was_answered(
    loopback: LoopbackJudge, tmp_path: Path
) -> None:
    loopback.reply = lambda payload: payload["messages"][0]["content"].upper()
    questions = {number: Question(f"question {number}") for number in range(12)}
    loopback.script = [None] * 5 + [500] * 100
    with pytest.raises(JudgeError):
        Judge(loopback.config(tmp_path, workers=1, max_retries=0)).ask_all(questions, bool)
    assert len((tmp_path / "test-judge.jsonl").read_text().splitlines()) == 5
    loopback.script = []
    before = len(loopback.requests)
    replies = Judge(loopback.config(tmp_path)).ask_all(questions, bool)
    assert replies == {number: f"QUESTION {number}" for number in range(12)}
    assert len(loopback.requests) - before == 7


def test_a_cache_that_cannot_be_written_is_said(loopback: LoopbackJudge, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Judge(loopback.config(tmp_path / "file" / "judge")).ask(ASKED)
