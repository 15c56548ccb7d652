"""What judges ask for their tokens. One table; a judge that is not in it has no known price and none is guessed."""

from __future__ import annotations

from dataclasses import dataclass

PAGE, DATE = "https://platform.openai.com/docs/pricing", "2026-11-21"
"""Whose prices these are, and when they were written down, from public code that quotes that page. They change: the
page is right where they differ."""


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens."""

    prompt: float
    reply: float

    def of(self, prompt: float, reply: float) -> float:
        """US dollars for so many tokens."""
        return (prompt * self.prompt + reply * self.reply) / 1e6


_PRICES = {"gpt-4-turbo": Price(10.0, 30.0), "gpt-3.5-turbo": Price(0.5, 1.5)}
_DATED = {"gpt-4-turbo-2024-04-09": "gpt-4-turbo", "gpt-3.5-turbo-0125": "gpt-3.5-turbo"}


def price_of(model: str) -> Price | None:
    """The price of a judge's model; None where it is not known."""
    return _PRICES.get(_DATED.get(model, model))
