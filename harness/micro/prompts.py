"""The prompts that VLMEvalKit builds for each benchmark, in pieces, so that questions share what is common to them.

A prompt is: chat head, `before` + question if the question comes first, the video, `after`, the question unless it came
first, chat tail. tests/micro/test_prompts.py holds every line of this file against the kit's own `build_prompt`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LETTERS = "ABCDE"


@dataclass(frozen=True)
class PromptFormat:
    """How one benchmark asks: the fixed text around the visual input, the number of options (0: open), the wording."""

    options: int
    wording: Callable[[str, Sequence[str]], str]
    before: str = ""
    after: str = ""
    question_first: bool = False


def _lettered(template: str, options: Sequence[str]) -> str:
    return "\n".join(template.format(letter, option) for letter, option in zip(LETTERS, options, strict=False))


VIDEO_FORMATS: dict[str, PromptFormat] = {
    "Video-MME": PromptFormat(
        after="\nThese are the frames of a video. Select the best answer to the following multiple-choice question "
        "based on the video. Respond with only the letter (A, B, C, or D) of the correct option.\n",
        options=4,
        wording=lambda question, options: f"Question: {question}\n{_lettered('{}. {}', options)}\nAnswer: ",
    ),
    "MVBench": PromptFormat(
        before="Carefully watch the video and pay attention to the cause and sequence of events, the detail and "
        "movement of objects, and the action and pose of persons. Based on your observations, select the best option "
        "that accurately addresses the question.\n",
        options=4,
        wording=lambda question, options: (
            f"Question: {question}\nOptions:\n{_lettered('({}) {}', options)}\nOnly give the best option.Best option:("
        ),
    ),
    "MMBench-Video": PromptFormat(options=0, wording=lambda question, options: question, question_first=True),
    "NExT-QA-MC": PromptFormat(
        options=5,
        wording=lambda question, options: (
            f"{question}\n{_lettered('{}. {}', options)}\n"
            "Answer with the option's letter from the given choices directly."
        ),
    ),
    "NExT-QA-OE": PromptFormat(
        options=0,
        wording=lambda question, options: f"{question}\nAnswer a question using a short phrase or sentence.",
    ),
    "ActivityNet-QA": PromptFormat(
        options=0,
        wording=lambda question, options: (
            f"{question.capitalize()}? Answer the question using a single word or phrase."
        ),
    ),
}
"""Video benchmarks. Video-MME, MVBench and MMBench-Video ask 'What ...?'; the others as their own files write it."""

IMAGE_FORMATS: dict[str, PromptFormat] = {
    "MCQ": PromptFormat(
        options=4,
        wording=lambda question, options: (
            f"Question: {question}\nOptions:\n{_lettered('{}. {}', options)}\n"
            "Please select the correct answer from the options above."
        ),
    ),
    "Y/N": PromptFormat(options=0, wording=lambda question, options: f"{question} Please answer yes or no."),
    "VQA": PromptFormat(options=0, wording=lambda question, options: question),
}
"""Image benchmarks, by the kit's dataset type, as Qwen2VLChat asks them (MME's questions bring their instruction)."""

PLAIN_IMAGE_FORMATS = {
    **IMAGE_FORMATS,
    "MCQ": PromptFormat(
        options=4,
        wording=lambda question, options: (
            f"Question: {question}\nOptions:\n{_lettered('{}. {}', options)}\n"
            "Please select the correct answer from the options above. \n"
        ),
    ),
}
"""The same as the kit's datasets ask models that have no prompts of their own."""

SENTENCES = frozenset({"bare", "Video-MME", "MVBench", "MMBench-Video", "MCQ", "Y/N", "VQA"})
"""Formats whose questions are written as sentences, 'What color is the star?'."""


def as_asked(name: str, question: str) -> str:
    """The question as the benchmark's own file writes it: NExT-QA, ActivityNet-QA in lower case, no question mark."""
    return question.capitalize() + "?" if name in SENTENCES else question
