"""An OpenAI-compatible server: one request, and what can become of it.

The key travels in one header, and is neither logged nor part of anything that leaves here. TLS is always verified and
no redirect is followed.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from harness.judging.models import last_day
from model_wrappers.errors import UserError

_REASONING = re.compile(r"^(?:o\d|gpt-5)")
_REASONING_TOKENS = 4096


class JudgeError(RuntimeError):
    """The judge did not answer. Predictions are untouched and earlier verdicts kept: scoring can be run again."""


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


@dataclass(frozen=True)
class Reply:
    """What came back: text, tokens of prompt and completion (None: not said), and the server's name of the model."""

    text: str
    usage: tuple[int, int] | None
    served: str | None


class Transient(Exception):
    """Worth another try; `retry_after` seconds if the server said so. `lost`: the server may have worked for it."""

    def __init__(self, message: str, retry_after: float | None = None, *, lost: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.lost = retry_after, lost


class Endpoint:
    """A model at a server. `key`: "" where the server wants none; `key_env`: where it is from, for messages.

    Raises UserError when the base URL is none or holds a secret.
    """

    def __init__(self, base_url: str, model: str, key: str, key_env: str | None, timeout: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise UserError(f"judge: base_url is {base_url!r}; it must start with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"judge {model}: base_url, which is written into results, has a user, password or query in it; "
                "name the environment variable with the key as key_env"
            )
        self.base = base_url.rstrip("/").removesuffix("/chat/completions")
        self.url = f"{self.base}/chat/completions"
        self.host, self.model, self.key_env, self.timeout = parts.hostname, model, key_env, timeout
        self._key = key

    def longest(self, question: Question) -> int:
        """The most tokens that a reply to it may have."""
        reasons = _REASONING.match(self.model)
        return max(question.max_tokens, _REASONING_TOKENS) if reasons else question.max_tokens

    def post(self, question: Question) -> Reply:
        """One request. Raises Transient where another try is worth it, JudgeError where none is."""
        import requests

        payload: dict[str, Any] = {"model": self.model, "messages": question.messages()}
        if _REASONING.match(self.model):
            payload["max_completion_tokens"] = self.longest(question)
        else:
            payload |= {"temperature": 0, "max_tokens": self.longest(question)}
        try:
            # `auth` as a function: with a plain header, requests would put a ~/.netrc entry in its place.
            response = requests.post(
                self.url, json=payload, auth=self._sign, timeout=self.timeout, allow_redirects=False
            )
        except requests.exceptions.SSLError as error:
            if isinstance(_cause(error), ssl.SSLCertVerificationError):
                raise JudgeError(
                    f"the certificate of the judge at {self.host} is not trusted; nothing was sent"
                ) from None
            raise Transient("TLS failed", lost=True) from None
        except requests.exceptions.Timeout as error:
            sent = not isinstance(error, requests.exceptions.ConnectTimeout)
            raise Transient(f"no answer within {self.timeout:g} s", lost=sent) from None
        except requests.exceptions.RequestException as error:
            raise Transient(f"connection failed: {type(error).__name__}", lost=_cause(error) is None) from None
        if response.status_code == 429 or response.status_code >= 500:
            raise Transient(f"HTTP {response.status_code}", _seconds(response.headers.get("Retry-After")))
        if response.status_code >= 300:
            raise JudgeError(self.refusal(response.status_code))
        return self._read(response)

    def models(self, timeout: float) -> Any:
        """The server's response to who its models are, which costs nothing; raises what requests does."""
        import requests

        return requests.get(f"{self.base}/models", auth=self._sign, timeout=timeout, allow_redirects=False)

    def _read(self, response: Any) -> Reply:
        try:
            body = response.json()
            text = str(body["choices"][0]["message"]["content"] or "").strip()
        except (ValueError, KeyError, IndexError, TypeError):
            raise Transient("its reply is no chat completion", lost=True) from None
        if self._key:  # whatever a server echoes
            text = text.replace(self._key, "[key]")
        served = body.get("model")
        plain = isinstance(served, str) and not (self._key and self._key in served)
        return Reply(text, _usage(body.get("usage")), served if plain else None)

    def refusal(self, status: int) -> str:
        """What is said when the server will not have the request, for good."""
        said = f"the judge {self.model} at {self.host} refused the request (HTTP {status}); check base_url, model"
        said += f" and the key in {self.key_env}" if self.key_env else ", and whether it wants a key"
        if day := last_day(self.url, self.model):
            said += f"; OpenAI announced {day} as the last day of that model, and another judge gives other numbers"
        return said

    def _sign(self, request: Any) -> Any:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _usage(said: Any) -> tuple[int, int] | None:
    """Tokens of prompt and completion as the server counted them; None where it did not count both."""
    if not isinstance(said, dict):
        return None
    counts = said.get("prompt_tokens"), said.get("completion_tokens")
    if any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
        return None
    return counts  # type: ignore[return-value]


def _cause(error: Exception) -> Exception | None:
    """Why nothing was sent: no connection was made, or the server's certificate is not trusted; None: for neither."""
    from requests.packages.urllib3.exceptions import NewConnectionError  # the one that requests raises

    inner = error.args[0] if error.args else None
    for cause in (inner, reason := getattr(inner, "reason", None), *getattr(reason, "args", ())):
        if isinstance(cause, NewConnectionError | ssl.SSLCertVerificationError):
            return cause
    return None


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
