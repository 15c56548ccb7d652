"""How many samples the paper's benchmarks have, and how long questions and answers are taken to be."""

from __future__ import annotations

PUBLISHED = {
    "MME": 2374,
    "MMStar": 1500,
    "MMVet": 218,
    "SEEDBench_IMG": 14232,
    "Video-MME": 2700,
    "MVBench": 4000,
    "MMBench-Video": 1998,
    "NExT-QA-MC": 8564,
    "NExT-QA-OE": 9178,
    "ActivityNet-QA": 8000,
}
"""Questions as their papers count them (NExT-QA, ActivityNet-QA: test sets; SEED-Bench: its image part)."""

TEXT = 128
"""Text tokens of a prompt: an assumption. The paper's convention leaves them out altogether."""
RESPONSE = {"choice": 4, "yes/no": 4, "open": 32, "other": 32}
"""Tokens of an answer by a benchmark's kind: an assumption. They are decoded one by one, so hours depend on it."""
