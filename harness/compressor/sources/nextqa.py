"""NExT-QA's train split (arXiv 2105.08276), multiple choice and open-ended, in its official files.

The files are those of `harness.benchmarks.nextqa`, `train.csv` in place of `test.csv` (github doc-doc/NExT-QA,
`dataset/nextqa`, and doc-doc/NExT-OE, `dataset/nextqa`): columns video, question, answer, qid, type, and for multiple
choice a0 to a4, where answer is 0 to 4. A video is found by its file name (`<video>.mp4`) anywhere under the folder of
the csv or beside it, so `NExTVideo/1164/3238737531.mp4` and `NExTVideo/3238737531.mp4` both do. The paper says only "6k
samples from NExT-QA": where both tasks are there, half come from each. Questions are asked as the benchmark asks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness.compressor.sources import MIXES, Media, Read, Sample, Source, videos_under
from model_wrappers.errors import UserError

OPTIONS = ["a0", "a1", "a2", "a3", "a4"]
LETTERS = "ABCDE"


def find(files: list[Path]) -> list[Source]:
    """NExT-QA, from every `train.csv` with its columns; a file per task, the first one found."""
    parts: dict[str, Read] = {}
    where: list[str] = []
    for path in files:
        if path.name != "train.csv":
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            columns = set(file.readline().strip().lstrip("\ufeff").split(","))
        if not {"video", "question", "answer", "qid"} <= columns:
            continue
        kind = "multiple choice" if set(OPTIONS) <= columns else "open-ended"
        if kind not in parts:
            parts[kind] = partial(_read, path, kind == "multiple choice")
            where.append(str(path))
    amount = MIXES["video"]["NExT-QA"]
    return [Source("NExT-QA", "video", parts, amount, ", ".join(where))] if parts else []


def _read(path: Path, choice: bool, left_out: Counter[str]) -> Iterator[Sample]:
    from harness.benchmarks.local_video import read_csv

    table = read_csv(path, ["video", "question", "answer", "qid", *(OPTIONS if choice else [])])
    videos = _videos(path.parent)
    for number, row in enumerate(table.to_dict("records"), start=1):
        video, question, answer = str(row["video"]), str(row["question"]).strip(), str(row["answer"]).strip()
        file = Media(videos.get(video, path.parent / "NExTVideo" / f"{video}.mp4"))
        if not question or not answer:
            left_out["without a question or an answer that can be read"] += 1
            continue
        name = f"NExT-QA/{'mc' if choice else 'oe'}/{video}_{row['qid']}"
        if choice:
            if answer not in {"0", "1", "2", "3", "4"}:
                raise UserError(f"{path}, row {number}: answer {answer!r} names no option; allowed are 0 to 4")
            options = tuple(str(row[column]) for column in OPTIONS)
            listed = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True)]
            how = "Answer with the option's letter from the given choices directly."
            prompt, answer = "\n".join([question, *listed, how]), LETTERS[int(answer)]
        else:
            options, prompt = (), f"{question}\nAnswer a question using a short phrase or sentence."
        yield Sample(name, "NExT-QA", video, "video", file, question, prompt, answer, options)


def _videos(folder: Path) -> dict[str, Path]:
    """Under the folder of the csv, else under its sisters: the two tasks share their videos."""
    found = videos_under(folder)
    return found or {name: path for name in ("NExT-QA", "NExT-OE") for name, path in _sister(folder, name).items()}


def _sister(folder: Path, name: str) -> dict[str, Path]:
    return videos_under(folder.parent / name) if (folder.parent / name).is_dir() else {}
