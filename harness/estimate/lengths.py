"""How long prompts and answers are taken to be."""

from __future__ import annotations

TEXT = 128
"""Text tokens of a prompt: an assumption. The paper's convention leaves them out altogether."""
RESPONSE = {"choice": 4, "yes/no": 4, "open": 32, "other": 32}
"""Tokens of an answer by a benchmark's kind: an assumption. They are decoded one by one, so hours depend on it."""
