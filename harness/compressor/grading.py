"""Whether a model's answer is right: read off for closed answers, exact match or a judge's word for open ones."""

from __future__ import annotations

from harness.benchmarks.choices import parse_choice, parse_yes_no
from harness.benchmarks.official import exact_match, plain
from harness.compressor.sources import Sample
from harness.scoring import protocols
from harness.scoring.judge import Judge, JudgeConfig


def is_open(sample: Sample) -> bool:
    """Whether its answer is free text: neither a letter of multiple choice nor yes or no."""
    return not sample.options and plain(sample.answer) not in ("yes", "no")


class Grader:
    """Grades answers one by one.

    Closed: multiple choice (the letter that the reply chooses, `parse_choice`), and yes or no (`parse_yes_no`). All
    other answers are open: right where they are the reference but for case, outer punctuation and a leading article;
    what is not is shown to the judge, where there is one, by the protocol of Video-ChatGPT that ActivityNet-QA is
    scored with, also for pictures.

    Raises UserError where the judge could not be asked (its URL, its key).
    """

    def __init__(self, judge: JudgeConfig | None) -> None:
        self._judge = Judge(judge) if judge else None

    def right(self, sample: Sample, reply: str) -> bool | None:
        """Whether `reply` answers the sample's question right; None where the judge gave no verdict that can be read.

        Raises:
            JudgeError: the judge does not answer.
        """
        if sample.options:
            return parse_choice(reply, sample.options) == sample.answer
        if not is_open(sample):
            return (parse_yes_no(reply) or "").lower() == plain(sample.answer)
        if exact_match(reply, [sample.answer]):
            return True
        if self._judge is None or not reply.strip():
            return False
        asked = protocols.correctness(sample.question, sample.answer, reply)
        said = self._judge.ask(asked, lambda text: protocols.read_correctness(text) is not None)
        verdict = protocols.read_correctness(said) if said is not None else None
        return None if verdict is None else verdict.right
