"""ActivityNet-QA's train split (arXiv 1906.02467), in its official files.

The files are those of `harness.benchmarks.activitynet_qa`, `train_q.json` and `train_a.json` in place of the test ones
(github MILVLG/activitynet-qa, `dataset/`); videos `v_<video_name>.mp4` (or mkv, webm) anywhere under their folder.
Questions are asked as the benchmark asks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness.compressor.sources import MIXES, Media, Sample, Source, entries, videos_under
from model_wrappers.errors import UserError


def find(files: list[Path]) -> list[Source]:
    """ActivityNet-QA, where `train_q.json` lies. Raises UserError where its answers do not lie beside it."""
    for path in files:
        if path.name == "train_q.json":
            answers = path.with_name("train_a.json")
            if not answers.is_file():
                raise UserError(f"{path} has no {answers.name} beside it, which holds its answers")
            amount = MIXES["video"]["ActivityNet-QA"]
            return [Source("ActivityNet-QA", "video", {"open-ended": partial(_read, path, answers)}, amount, str(path))]
    return []


def _read(questions: Path, answers: Path, left_out: Counter[str]) -> Iterator[Sample]:
    known = {entry["question_id"]: str(entry["answer"]) for entry in entries(answers, ("answer", "question_id"))}
    videos = videos_under(questions.parent)
    for entry in entries(questions, ("video_name", "question", "question_id")):
        name, video = str(entry["question_id"]), str(entry["video_name"])
        if entry["question_id"] not in known:
            raise UserError(f"{answers} has no answer to question {name} of {questions.name}")
        question, answer = f"{str(entry['question']).strip().capitalize()}?", known[entry["question_id"]].strip()
        if question == "?" or not answer:
            left_out["without a question or an answer that can be read"] += 1
            continue
        file = Media(videos.get(f"v_{video}", questions.parent / f"v_{video}.mp4"))
        prompt = f"{question} Answer the question using a single word or phrase."
        identity = f"ActivityNet-QA/{name}"
        yield Sample(identity, "ActivityNet-QA", f"v_{video}", "video", file, question, prompt, answer)
