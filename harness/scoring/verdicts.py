"""Verdicts of a judge by sample, and how they are handed to the kit's evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from harness.scoring.evaluation import Index
from harness.scoring.judge import Judge, JudgeConfig, Question

Verdict = TypeVar("Verdict")


def judge_verdicts(
    config: JudgeConfig, asked: Mapping[Index, Question], read: Callable[[str], Verdict | None]
) -> dict[Index, Verdict]:
    """What the judge said, by index; samples without a usable verdict are left out."""
    if not asked:
        return {}
    replies = Judge(config).ask_all(asked, lambda reply: read(reply) is not None)
    read_replies = {index: read(reply) for index, reply in replies.items() if reply is not None}
    return {index: verdict for index, verdict in read_replies.items() if verdict is not None}


class KnownVerdicts:
    """Stands where the kit builds its judge, and gives back verdicts that were reached before.

    `verdicts`: by the prediction that the kit puts into its prompt between the last `before` and the next `after`.
    """

    fail_msg = "Failed to obtain answer via API."

    def __init__(self, verdicts: Mapping[str, str], before: str, after: str) -> None:
        self._verdicts, self._before, self._after = verdicts, before, after

    def working(self) -> bool:
        """The kit asks before it trusts a judge."""
        return True

    def generate(self, prompt: str, **_: Any) -> str:
        """The verdict on the prediction in `prompt`."""
        return self._verdicts[prompt.rsplit(self._before, 1)[1].split(self._after)[0]]
