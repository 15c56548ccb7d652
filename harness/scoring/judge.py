"""A judge: a language model behind an OpenAI-compatible HTTP interface, asked with retries and remembered by content.

The key comes from the environment, travels in one header, and is neither logged nor stored. TLS is always verified.
Replies are appended to a JSONL file as they arrive, so a scoring that breaks off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from model_wrappers.errors import UserError

VERSION = 1
"""Part of every cache key: a change in how a judge is asked must not meet older replies."""
_REASONING = re.compile(r"^(?:o\d|gpt-5)")
_UNUSABLE_TRIES = 3


class JudgeError(RuntimeError):
    """The judge did not answer. Predictions are untouched and earlier verdicts kept: scoring can be run again."""


@dataclass(frozen=True)
class JudgeConfig:
    """Which judge, and how patiently it is asked.

    `base_url`: such as `https://api.openai.com/v1`, with or without `/chat/completions`. `key_env`: the environment
    variable with the key; None for a server that wants none. `timeout`: seconds for one request. `max_retries`: after
    the first try, on 429, 5xx, timeouts, broken connections and bodies that are no completion. `backoff`: seconds
    before the first retry, doubled each time, up to `max_wait`, which also bounds a server's Retry-After. `workers`:
    requests at a time. `cache`: the folder of remembered replies.
    """

    base_url: str
    model: str
    key_env: str | None = "OPENAI_API_KEY"
    timeout: float = 60.0
    max_retries: int = 6
    backoff: float = 1.0
    max_wait: float = 120.0
    workers: int = 4
    cache: Path = Path("results/runs/judge")


@dataclass(frozen=True)
class Question:
    """What a judge is asked: a system text (may be empty), a prompt, and how long its reply may be (tokens)."""

    prompt: str
    system: str = ""
    max_tokens: int = 2048

    def messages(self) -> list[dict[str, str]]:
        """As the interface wants them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


class _Transient(Exception):
    """Worth another try; `retry_after` seconds if the server said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Judge:
    """The judge of one JudgeConfig. Raises UserError when the base URL is none or the key is not in the environment."""

    def __init__(self, config: JudgeConfig) -> None:
        parts = urlsplit(config.base_url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise UserError(f"judge: base_url is {config.base_url!r}; it must start with http:// or https://")
        self.config = config
        self.url = config.base_url.rstrip("/")
        if not self.url.endswith("/chat/completions"):
            self.url += "/chat/completions"
        self._host = parts.hostname
        self._key = os.environ.get(config.key_env, "") if config.key_env else ""
        if config.key_env and not self._key:
            raise UserError(f"judge {config.model}: the environment variable {config.key_env} with its key is not set")
        self._cache = _Cache(config.cache / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', config.model)}.jsonl")

    def ask_all(self, questions: Mapping[Any, Question], usable: Callable[[str], bool]) -> dict[Any, str | None]:
        """The reply to each question, by key; None where every one of three replies was not `usable`.

        Raises JudgeError if the judge does not answer; replies that arrived before are remembered.
        """
        stopped = threading.Event()  # the first failure: nothing more is asked of a judge that is down

        def ask(question: Question) -> str | None:
            if stopped.is_set():
                raise JudgeError("not asked: the judge had failed before")
            try:
                return self.ask(question, usable)
            except BaseException:
                stopped.set()
                raise

        with ThreadPoolExecutor(max_workers=self.config.workers) as pool:
            futures = {question: pool.submit(ask, question) for question in dict.fromkeys(questions.values())}
            try:
                replies = {question: future.result() for question, future in futures.items()}
            except BaseException:  # Ctrl-C too
                stopped.set()
                raise
        return {key: replies[question] for key, question in questions.items()}

    def ask(self, question: Question, usable: Callable[[str], bool] = bool) -> str | None:
        """One reply, from memory if this was asked before; None if it is not `usable` (not remembered, then)."""
        key = self._digest(question)
        known = self._cache.get(key)
        if known is not None:
            return known
        for _ in range(_UNUSABLE_TRIES):
            reply = self._request(question)
            if usable(reply):
                self._cache.put(key, {"model": self.config.model, "asked": question.messages(), "reply": reply})
                return reply
        return None

    def _digest(self, question: Question) -> str:
        asked = [VERSION, self.config.model, question.messages(), question.max_tokens]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()

    def _request(self, question: Question) -> str:
        import tenacity

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked_for = error.retry_after if isinstance(error, _Transient) else None
            if asked_for is None:
                asked_for = self.config.backoff * 2 ** (state.attempt_number - 1) * random.Random().uniform(0.5, 1.0)
            return min(asked_for, self.config.max_wait)

        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.config.max_retries + 1),
            wait=wait,
            retry=tenacity.retry_if_exception_type(_Transient),
            reraise=True,
        )
        try:
            return tries(self._post, question)
        except _Transient as error:
            # `from None`: the library's exceptions carry the request, and with it the key.
            raise JudgeError(
                f"the judge {self.config.model} at {self._host} did not answer after {self.config.max_retries + 1} "
                f"tries ({error}); answers and earlier verdicts are kept, run again to go on judging"
            ) from None

    def _post(self, question: Question) -> str:
        import requests

        payload: dict[str, Any] = {"model": self.config.model, "messages": question.messages()}
        if _REASONING.match(self.config.model):
            payload["max_completion_tokens"] = max(question.max_tokens, 4096)
        else:
            payload |= {"temperature": 0, "max_tokens": question.max_tokens}
        try:
            # `auth` as a function: with a plain header, requests would put a ~/.netrc entry in its place.
            response = requests.post(self.url, json=payload, auth=self._sign, timeout=self.config.timeout)
        except requests.exceptions.SSLError:
            raise JudgeError(f"the certificate of the judge at {self._host} is not trusted; nothing was sent") from None
        except requests.exceptions.Timeout:
            raise _Transient(f"no answer within {self.config.timeout:g} s") from None
        except requests.exceptions.RequestException as error:
            raise _Transient(f"connection failed: {type(error).__name__}") from None
        if response.status_code == 429 or response.status_code >= 500:
            raise _Transient(f"HTTP {response.status_code}", _seconds(response.headers.get("Retry-After")))
        if response.status_code >= 400:
            raise JudgeError(
                f"the judge {self.config.model} at {self._host} refused the request (HTTP {response.status_code}); "
                f"check base_url, model and the key in {self.config.key_env}"
            )
        try:
            return str(response.json()["choices"][0]["message"]["content"] or "").strip()
        except (ValueError, KeyError, IndexError, TypeError):
            raise _Transient("its reply is no chat completion") from None

    def _sign(self, request: Any) -> Any:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds: a number or an HTTP date; None when absent or unreadable."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


class _Cache:
    """Replies by digest in one append-only JSONL file. A torn last line, left by a kill, is not read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._replies: dict[str, str] = {}
        self._torn = False
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            self._torn = bool(text) and not text.endswith("\n")
            for line in text.split("\n")[:-1]:
                try:
                    entry = json.loads(line)
                    self._replies[entry["key"]] = entry["reply"]
                except (ValueError, KeyError, TypeError):
                    continue  # the rest of a line that was torn by a kill; what it held is asked again

    def get(self, key: str) -> str | None:
        return self._replies.get(key)

    def put(self, key: str, entry: dict[str, Any]) -> None:
        line = json.dumps({"key": key, **entry}, ensure_ascii=False) + "\n"
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("\n" + line if self._torn else line)
            except OSError as error:
                raise UserError(f"{self._path} cannot be written ({error.strerror})") from error
            self._torn = False
            self._replies[key] = entry["reply"]
