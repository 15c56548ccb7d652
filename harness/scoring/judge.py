"""A judge: a language model behind an OpenAI-compatible HTTP interface, asked with retries and remembered by content.

The key comes from the environment and is given to `harness.judging.endpoint` alone. Each call is in the judge's ledger
as soon as it is over, with its tokens and its cost, so a scoring that breaks off goes on where it stopped and pays for
nothing twice.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.judging.account import Account
from harness.judging.endpoint import Endpoint, JudgeError, Question, Reply, Transient
from harness.judging.ledger import Ledger
from harness.judging.models import Price, price_of
from model_wrappers.errors import UserError

__all__ = ["Judge", "JudgeConfig", "JudgeError", "Question"]

VERSION = 2
"""Part of every key in the ledger: a change in how a judge is asked must not meet older replies."""
_UNUSABLE_TRIES = 3
_MESSAGE_TOKENS = 16
"""More than any server adds to a message for its role and its ends."""


@dataclass(frozen=True)
class JudgeConfig:
    """Which judge, how patiently it is asked, and who pays.

    `base_url`: such as `https://api.openai.com/v1`, with or without `/chat/completions`. `key_env`: the environment
    variable with the key; None for a server that wants none. `timeout`: seconds for one request. `max_retries`: after
    the first try, on 429, 5xx, timeouts, broken connections and bodies that are no completion. `backoff`: seconds
    before the first retry, doubled each time, up to `max_wait`, which also bounds a server's Retry-After. `workers`:
    requests at a time. `cache`: the folder of the ledgers. `price`: None for what is known of the model.

    `account`: what is asked is booked there for the benchmark `purpose`, and its limit holds; when the judge fails or
    the limit is reached, the reason is in `account.stopped` and the rest stays unjudged. Without one, a failure raises.
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
    price: Price | None = None
    account: Account | None = field(default=None, compare=False)
    purpose: str = ""


class Judge:
    """The judge of one JudgeConfig. Raises UserError when the base URL is none, or holds a secret, or the key is not in
    the environment.
    """

    def __init__(self, config: JudgeConfig) -> None:
        key = os.environ.get(config.key_env, "") if config.key_env else ""
        self.endpoint = Endpoint(config.base_url, config.model, key, config.key_env, config.timeout)
        self.config = config
        self._price = config.price or price_of(config.base_url, config.model)
        account = config.account
        if config.key_env and not key and not (account and not account.asks):
            raise UserError(f"judge {config.model}: the environment variable {config.key_env} with its key is not set")
        if account and account.limit is not None and self._price is None:
            raise UserError(
                f"judge {config.model}: a limit in dollars cannot be kept without its price; give it in the "
                "experiment as `price: {prompt: P, completion: C}`, US dollars for a million tokens, 0 for a server of "
                "your own"
            )
        path = config.cache / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', config.model)}.jsonl"
        self._ledger = account.ledger(path) if account else Ledger(path)

    def ask_all(self, questions: Mapping[Any, Question], usable: Callable[[str], bool]) -> dict[Any, str | None]:
        """The reply to each question, by key; None where every one of three replies was not `usable`, and with an
        account also where the judge was not asked any more.

        Raises JudgeError if the judge does not answer and there is no account; replies that arrived before are kept.
        """
        account, model = self.config.account, self.config.model
        replies = {question: self._ledger.get(self._digest(question)) for question in dict.fromkeys(questions.values())}
        unknown = [question for question, reply in replies.items() if reply is None]
        if account:
            account.remember(self.config.purpose, len(replies) - len(unknown))
            if unknown and not account.asks:
                account.stop(model, "its verdicts are not there yet, and only `retain run` asks for them")
            if model in account.stopped:
                unknown = []
        stopped = threading.Event()  # the first failure: nothing more is asked of a judge that is down
        failures: list[BaseException] = []

        def ask(question: Question) -> str | None:
            if stopped.is_set():
                return None
            try:
                return self.ask(question, usable, stopped)
            except BaseException as error:
                failures.append(error)
                stopped.set()
                return None

        with ThreadPoolExecutor(max_workers=self.config.workers) as pool:
            try:
                replies |= dict(zip(unknown, pool.map(ask, unknown), strict=True))
            except BaseException:  # Ctrl-C
                stopped.set()
                raise
        if failures:
            if account is None or not isinstance(failures[0], JudgeError):
                raise failures[0]
            account.stop(model, str(failures[0]))
        return {key: replies[question] for key, question in questions.items()}

    def ask(
        self, question: Question, usable: Callable[[str], bool] = bool, stopped: threading.Event | None = None
    ) -> str | None:
        """One reply, from memory if this was asked before; None if it is not `usable` (not remembered, then).

        `stopped`, once set, ends the waiting for a judge that does not answer.
        """
        key = self._digest(question)
        known = self._ledger.get(key)
        if known is not None:
            return known
        with self._ledger.alone(key) as known:
            if known is not None:
                return known
            for _ in range(_UNUSABLE_TRIES):
                reply = self._request(key, question, usable, stopped or threading.Event())
                if usable(reply):
                    return reply
        return None

    def _digest(self, question: Question) -> str:
        asked = [VERSION, self.endpoint.url, self.config.model, question.messages(), question.max_tokens]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()

    def _request(self, key: str, question: Question, usable: Callable[[str], bool], stopped: threading.Event) -> str:
        import tenacity

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked_for = error.retry_after if isinstance(error, Transient) else None
            if asked_for is None:
                asked_for = self.config.backoff * 2 ** (state.attempt_number - 1) * random.Random().uniform(0.5, 1.0)
            return min(asked_for, self.config.max_wait)

        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.config.max_retries + 1) | tenacity.stop_when_event_set(stopped),
            wait=wait,
            sleep=tenacity.sleep_using_event(stopped),
            retry=tenacity.retry_if_exception_type(Transient),
            reraise=True,
        )
        try:
            return tries(self._paid, key, question, usable)
        except Transient as error:
            # `from None`: the library's exceptions carry the request, and with it the key.
            raise JudgeError(
                f"the judge {self.config.model} at {self.endpoint.host} did not answer after "
                f"{self.config.max_retries + 1} tries ({error}); answers and earlier verdicts are kept, run again "
                "to go on judging"
            ) from None

    def _paid(self, key: str, question: Question, usable: Callable[[str], bool]) -> str:
        """One try, paid for in advance and booked when it is over. Raises JudgeError when the limit is reached."""
        account, price = self.config.account, self._price
        # No token is shorter than a byte, so this is the most that it can cost.
        size = sum(len(message["content"].encode()) + _MESSAGE_TOKENS for message in question.messages())
        most = price.dollars(size, self.endpoint.longest(question)) if price else None
        if account and not account.reserve(most or 0.0):
            raise JudgeError(
                f"the judge {self.config.model} is asked no more: the limit of ${account.limit:g} would be crossed "
                f"(${account.spent:.4f} are spent); a higher --judge-limit goes on from here"
            )
        entry: dict[str, Any] | None = None
        try:
            try:
                reply = self.endpoint.post(question)
            except Transient as error:
                if error.lost:
                    entry = self._entry(key, question, "lost", Reply(str(error), None, None), most)
                raise
            entry = self._entry(key, question, "verdict" if usable(reply.text) else "unusable", reply, most)
            return reply.text
        finally:
            try:
                if entry:
                    self._ledger.add(entry)
            finally:
                if account:
                    account.settle(most or 0.0, self.config.purpose, entry)

    def _entry(self, key: str, question: Question, outcome: str, reply: Reply, most: float | None) -> dict[str, Any]:
        config = self.config
        usd = self._price.dollars(*reply.usage) if self._price and reply.usage else None
        return {
            "key": key,
            "outcome": outcome,
            "for": [config.account.experiment, config.purpose] if config.account else None,
            "usage": reply.usage,
            "usd": usd,
            "most_usd": most if reply.usage is None else None,
            "model": config.model,
            "url": self.endpoint.url,
            "served": reply.served,
            "asked": question.messages(),
            "reply": reply.text,
        }
