"""ActivityNet-QA as a VLMEvalKit dataset.

Official files (github MILVLG/activitynet-qa, dataset/): `test_q.json`, `test_a.json`; videos `v_<video_name>.mp4` (or
mkv, webm) in `all_test/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from harness.benchmarks.local_video import LocalVideoDataset, find_video
from harness.benchmarks.official import answers_of, exact_match, grouped
from harness.vlmevalkit import register_dataset
from model_wrappers.errors import UserError

TYPES = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)


def groups_of(question_type: int) -> tuple[str, ...]:
    """The official groups: the type's name, and `free` for types 3 to 8."""
    return (TYPES[question_type], *(["free"] if question_type >= 3 else []))


def _entries(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} must be a list of entries with the keys {', '.join(keys)}")
    for position, entry in enumerate(entries):
        for key in keys:
            if not isinstance(entry, dict) or key not in entry:
                raise UserError(f"{path}, entry {position + 1}, has no key {key!r}; it needs {', '.join(keys)}")
    return entries


class ActivityNetQA(LocalVideoDataset):
    """ActivityNet-QA: a word or phrase is asked for. Exact match here; judge accuracy is in `harness.scoring`."""

    DATASET = "ActivityNet-QA"
    FOLDERS = ("ActivityNet-QA", "activitynetqa")

    def read(self, folder: Path) -> pd.DataFrame:
        """See the base class. `type` is an int, 0 to 8; `question` stays as in the file (lower case, no mark)."""
        questions = _entries(folder / "test_q.json", ("video_name", "question", "question_id"))
        answers = {a["question_id"]: a for a in _entries(folder / "test_a.json", ("answer", "type", "question_id"))}
        rows = []
        for index, entry in enumerate(questions):
            answer = answers.get(entry["question_id"])
            if answer is None:
                raise UserError(f"{folder / 'test_a.json'} has no answer to question {entry['question_id']}")
            if answer["type"] not in range(len(TYPES)):
                raise UserError(
                    f"{folder / 'test_a.json'}: question {entry['question_id']} has type {answer['type']!r}; "
                    "allowed are 0 to 8"
                )
            name = f"v_{entry['video_name']}"
            path = find_video([folder / "all_test", folder], [name])
            if path is None:
                raise UserError(
                    f"{folder / 'test_q.json'} asks about video {entry['video_name']}, which is not there: "
                    f"no {name}.mp4, .mkv or .webm in {folder / 'all_test'}"
                )
            rows.append(
                {
                    "index": index,
                    "video": str(entry["video_name"]),
                    "video_path": str(path),
                    "question": str(entry["question"]),
                    "answer": str(answer["answer"]),
                    "type": int(answer["type"]),
                    "question_id": entry["question_id"],
                }
            )
        return pd.DataFrame(rows)

    def text(self, line: Any) -> str:
        """The question as a sentence, and the request for a short answer."""
        return f"{line['question'].capitalize()}? Answer the question using a single word or phrase."

    def evaluate(self, eval_file: str, **_: Any) -> dict[str, float]:
        """The original metric (evaluation/eval.py): exact match, percent, overall, by type and for the free types.

        Case, outer punctuation and a leading article are forgiven, which the original is not; the labels are lower-case
        single words, and models since answer `Yes.`.
        """
        predictions = answers_of(eval_file, self.data["index"])
        scores, groups = {}, {}
        for line in self.data.to_dict("records"):
            scores[line["index"]] = float(exact_match(predictions[line["index"]], [line["answer"]]))
            groups[line["index"]] = groups_of(line["type"])
        return grouped(scores, groups, 100.0)


register_dataset(ActivityNetQA)
