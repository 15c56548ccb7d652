"""What judges are asked, and how their verdicts are read. Strict: a verdict that cannot be read is none."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.benchmarks.choices import strip_label
from harness.scoring.judge import Question
from harness.vlmevalkit import kit

# The protocol of Video-ChatGPT (arXiv 2306.05424) for ActivityNet-QA, word for word: the wording is the metric.
_CORRECTNESS_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer "
    "pairs. Your task is to compare the predicted answer with the correct answer and determine if they match "
    "meaningfully. Here's how you can accomplish the task:------##INSTRUCTIONS: "
    "- Focus on the meaningful match between the predicted answer and the correct answer.\n"
    "- Consider synonyms or paraphrases as valid matches.\n"
    "- Evaluate the correctness of the prediction compared to the answer."
)
_CORRECTNESS_PROMPT = (
    "Please evaluate the following video-based question-answer pair:\n\n"
    "Question: {question}\nCorrect Answer: {answer}\nPredicted Answer: {prediction}\n\n"
    "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 "
    "indicating the highest meaningful match. Please generate the response in the form of a Python dictionary string "
    "with keys 'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in "
    "INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary "
    "string. For example, your response should look like this: {{'pred': 'yes', 'score': 4.8}}."
)


@dataclass(frozen=True)
class Correctness:
    """A verdict of the Video-ChatGPT protocol: right or wrong, and a score from 0 to 5."""

    right: bool
    score: float


def correctness(question: str, answer: str, prediction: str) -> Question:
    """ActivityNet-QA: is the prediction right, by the Video-ChatGPT protocol?"""
    prompt = _CORRECTNESS_PROMPT.format(question=question, answer=answer, prediction=prediction)
    return Question(prompt, _CORRECTNESS_SYSTEM, max_tokens=64)


def activitynet(line: dict[str, Any], prediction: str) -> Question:
    """ActivityNet-QA: the question as a sentence, its answer, the prediction."""
    return correctness(line["question"].capitalize() + "?", line["answer"], prediction)


def read_correctness(reply: str) -> Correctness | None:
    """The verdict in `{'pred': 'yes', 'score': 4}` (Python or JSON, also in a code fence), or None."""
    found = re.search(r"\{[^{}]*\}", reply)
    if not found:
        return None
    for read in (ast.literal_eval, json.loads):
        try:
            verdict: Any = read(found[0])
        except (ValueError, SyntaxError, TypeError):
            continue
        if not isinstance(verdict, dict):
            return None
        right, score = str(verdict.get("pred", "")).strip().lower(), verdict.get("score")
        if right not in {"yes", "no"} or isinstance(score, bool) or not isinstance(score, int | float):
            return None
        return Correctness(right == "yes", float(score)) if 0 <= score <= 5 else None
    return None


def rating(line: dict[str, Any], prediction: str) -> Question:
    """MMBench-Video: how near is the prediction, 0 to 3? The kit's own words and settings."""
    words = kit("vlmeval.dataset.utils.mmbench_video")
    return Question(words.build_prompt({**line, "prediction": prediction}), words.system_prompt)


def read_rating(reply: str) -> int | None:
    """A verdict that is one of 0, 1, 2, 3 and nothing else (the kit counts any other as 0), or None."""
    found = re.fullmatch(r"\s*([0-3])\s*\.?\s*", reply)
    return int(found[1]) if found else None


def option(question: str, options: Sequence[str], prediction: str) -> Question:
    """Which option does a reply mean, in which no letter can be read? The kit's own words."""
    texts = {chr(ord("A") + i): strip_label(str(text), chr(ord("A") + i)) for i, text in enumerate(options)}
    listed = kit("vlmeval.smp.vlm").build_option_str(texts)
    words = kit("vlmeval.dataset.utils.multiple_choice")
    return Question(words.build_prompt(question, listed, prediction), max_tokens=16)


def yes_no(question: str, prediction: str) -> Question:
    """Does a reply, in which neither can be read, mean yes or no? The kit's own words."""
    words = kit("vlmeval.dataset.utils.yorn")
    return Question(words.YOrN_match_prompt({"question": question, "prediction": prediction}), max_tokens=16)


def read_yes_no(reply: str) -> str | None:
    """A verdict that is `Yes`, `No` or `Unknown` and nothing else, or None."""
    found = re.fullmatch(r"\s*(yes|no|unknown)\s*\.?\s*", reply, re.IGNORECASE)
    return found[1].capitalize() if found else None


def correctness_score(line: dict[str, Any], prediction: str) -> Question:
    """MMVet: how right is the prediction, 0.0 to 1.0? The kit's own few-shot prompt and reply length."""
    words = kit("vlmeval.dataset.utils.mmvet")
    return Question(words.build_mmvet_gpt4_prompt({**line, "prediction": prediction}), max_tokens=3)


def read_correctness_score(reply: str) -> float | None:
    """A verdict that is one number from 0 to 1 and nothing else (the kit counts any other as 0), or None."""
    found = re.fullmatch(r"\s*([01](?:\.\d*)?|\.\d+)\s*", reply)
    return float(found[1]) if found and float(found[1]) <= 1 else None


def read_option(reply: str, count: int) -> str | None:
    """A verdict that is one option's letter, or `Z` for none of the `count` options; None if it is neither."""
    found = re.fullmatch(r"\s*\(?([A-Z])\)?\s*\.?\s*", reply)
    return found[1] if found and (found[1] == "Z" or ord(found[1]) - ord("A") < count) else None
