"""A JSONL file of one's own: a line a question.

    {"image": "pictures/1.png", "question": "What colour is the bar?", "answer": "red"}
    {"video": "clips/1.mp4", "question": "Who leaves?", "options": ["a dog", "a cat"], "answer": "B", "group": "film 7"}

Paths are relative to the file. `answer` of a question with options is the letter, the text or the index (from 0) of the
right one. `id` (default: the line's number) must be unique in the file. `group` (default: the path) is what all
questions about one video or picture share. A question is asked as it stands; with options they follow, lettered, with
the request for the letter.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness.benchmarks.choices import strip_label
from harness.compressor.sources import Media, Sample, Source
from model_wrappers.errors import UserError

KEYS = '{"image" or "video", "question", "answer"}'
KNOWN = ("id", "image", "video", "question", "answer", "options", "group")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def find(paths: list[Path]) -> list[Source]:
    """A source for each file and kind of media. Every line is checked.

    Raises:
        UserError: names the file, the line and the key.
    """
    sources = []
    for path in paths:
        samples = _samples(path)
        for media in ("image", "video"):
            if chosen := [sample for sample in samples if sample.media == media]:
                sources.append(Source(path.stem, media, {"": partial(_all, chosen)}, None, str(path)))  # type: ignore[arg-type]
    return sources


def _all(samples: list[Sample], left_out: Counter[str]) -> Iterator[Sample]:
    return iter(samples)


def _samples(path: Path) -> list[Sample]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text ({error})") from error
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        sample = _sample(path, number, line)
        if sample.id in seen:
            raise UserError(
                f"{path}, line {number}: id {sample.id.partition('/')[2]!r} is that of line {seen[sample.id]}"
            )
        seen[sample.id] = number
        samples.append(sample)
    if not samples:
        raise UserError(f"{path} has no lines; each is {KEYS}")
    return samples


def _sample(path: Path, number: int, line: str) -> Sample:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object; it must be {KEYS}")
    if unknown := [key for key in row if key not in KNOWN]:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(KNOWN)}")
    if ("image" in row) == ("video" in row):
        raise UserError(f"{where}: give either 'image' or 'video'")
    media: Any = "image" if "image" in row else "video"
    for key in (media, "question"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"{where}: {key!r} is {row.get(key)!r}; it must be text")
    options = _options(where, row.get("options"))
    answer = _answer(where, row.get("answer"), options)
    name, group = row.get("id", number), row.get("group", Path(row[media]).as_posix())
    if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(group, str):
        raise UserError(f"{where}: 'id' must be text or a number, and 'group' text")
    question = row["question"].strip()
    prompt = question
    if options:
        listed = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
        prompt = "\n".join([question, *listed, "Answer with the option's letter from the given choices directly."])
    file = Media(path.parent / row[media])
    return Sample(f"{path.stem}/{name}", path.stem, group, media, file, question, prompt, answer, options)


def _options(where: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not 2 <= len(given) <= len(LETTERS) or not all(isinstance(x, str) for x in given):
        raise UserError(f"{where}: 'options' must be a list of 2 to {len(LETTERS)} texts")
    return tuple(strip_label(text, letter) for letter, text in zip(LETTERS, given, strict=False))


def _answer(where: str, given: Any, options: tuple[str, ...]) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int | float) or not str(given).strip():
        raise UserError(f"{where}: 'answer' is {given!r}; it must be text")
    if not options:
        return str(given).strip()
    letters = LETTERS[: len(options)]
    if isinstance(given, int):
        letter = letters[given] if 0 <= given < len(options) else None
    elif len(text := str(given).strip()) == 1 and text.upper() in letters:
        letter = text.upper()
    else:
        same = [letter for letter, option in zip(letters, options, strict=True) if option == strip_label(text, letter)]
        letter = same[0] if len(same) == 1 else None
    if letter is None:
        raise UserError(
            f"{where}: answer {given!r} is none of its {len(options)} options, nor a letter or index of one"
        )
    return letter
