"""The models that judge: which one by default for which benchmark, and what each costs.

arXiv 2506.01097 names no judge; its section 4.1 says that all evaluations are VLMEvalKit's. So the defaults are the
versions that VLMEvalKit asks: `gpt-4-turbo` in its `run.py`, which its `judge_util.py` turns into gpt-4-1106-preview.
(Sent to OpenAI as it stands, `gpt-4-turbo` would be another model, that of 2024-04-09.) ActivityNet-QA is not in
VLMEvalKit: Video-ChatGPT's protocol (arXiv 2306.05424) asks gpt-3.5-turbo, which meant -0125 when the paper was made.
NExT-QA-OE's metric, WUPS, needs no judge, and neither do the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from urllib.parse import urlsplit

OPENAI = "https://api.openai.com/v1"

DEFAULTS = {
    "MMVet": "gpt-4-1106-preview",
    "MMBench-Video": "gpt-4-1106-preview",
    "ActivityNet-QA": "gpt-3.5-turbo-0125",
}
"""By what a benchmark is scored as (`harness.benchmarks.Benchmark.scored_as`)."""


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens of the prompt and of the completion, who says so and when (year-month)."""

    prompt: float
    completion: float
    source: str = "the experiment"
    date: str = ""

    def dollars(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


_LIST = "OpenAI's price list, standard processing, without cached-prompt discounts"
# Model, prompt, completion, when read, and the day OpenAI announced as its last (its deprecations page).
_OPENAI_MODELS: tuple[tuple[str, float, float, str, str], ...] = (
    ("gpt-4-1106-preview", 10.0, 30.0, "2026-03", "2026-03-26"),
    ("gpt-4-0125-preview", 10.0, 30.0, "2026-03", "2026-03-26"),
    ("gpt-4-turbo-2024-04-09", 10.0, 30.0, "2026-04", ""),
    ("gpt-4-turbo", 10.0, 30.0, "2026-04", ""),
    ("gpt-4-0613", 30.0, 60.0, "2026-04", "2026-10-23"),
    ("gpt-4o-2024-05-13", 5.0, 15.0, "2026-04", ""),
    ("gpt-4o-2024-08-06", 2.5, 10.0, "2026-04", ""),
    ("gpt-4o-2024-11-20", 2.5, 10.0, "2026-04", ""),
    ("gpt-4o", 2.5, 10.0, "2026-04", ""),
    ("gpt-4o-mini-2024-07-18", 0.15, 0.6, "2026-04", ""),
    ("gpt-4o-mini", 0.15, 0.6, "2026-04", ""),
    ("gpt-4.1", 2.0, 8.0, "2026-04", ""),
    ("gpt-4.1-mini", 0.4, 1.6, "2026-04", ""),
    ("gpt-3.5-turbo-0125", 0.5, 1.5, "2026-04", "2026-10-23"),
    ("gpt-3.5-turbo", 0.5, 1.5, "2026-04", "2026-10-23"),
)
PRICES = {name: Price(prompt, completion, _LIST, date) for name, prompt, completion, date, _ in _OPENAI_MODELS}
LAST_DAYS = {name: day for name, *_, day in _OPENAI_MODELS if day}


def is_openai(base_url: str) -> bool:
    """Whether a judge's URL is OpenAI's own: only there do its prices hold, and only there does its key belong."""
    return urlsplit(base_url).hostname == urlsplit(OPENAI).hostname


def price_of(base_url: str, model: str) -> Price | None:
    """The price of a model at a server; None where it is not known, as for every server but OpenAI's."""
    return PRICES.get(model) if is_openai(base_url) else None


def last_day(base_url: str, model: str) -> str | None:
    """The day (ISO) after which OpenAI announced to serve a model no more; None where no such day is known."""
    return LAST_DAYS.get(model) if is_openai(base_url) else None


def passed(base_url: str, model: str) -> str:
    """A clause where the last day that was announced for a model has passed; else empty."""
    day = last_day(base_url, model)
    if day is None or datetime.now(UTC).date() <= date.fromisoformat(day):
        return ""
    return f"OpenAI announced {day} as the last day of {model}, and another judge gives other numbers"
