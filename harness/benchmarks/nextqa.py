"""NExT-QA as VLMEvalKit datasets: multiple choice (`NExT-QA`) and open-ended (`NExT-OE`).

Official files (github doc-doc/NExT-QA, doc-doc/NExT-OE): `test.csv`, `map_vid_vidorID.json` (video id -> VidOR path)
and, for the open-ended task, `add_reference_answer_test.json`. Videos: `NExTVideo/<video>.mp4` or
`NExTVideo/<VidOR path>.mp4`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness.benchmarks.choices import parse_choice
from harness.benchmarks.local_video import LocalVideoDataset, find_video, read_csv
from harness.benchmarks.official import answers_of, grouped
from harness.vlmevalkit import register_dataset
from model_wrappers.errors import UserError

LETTERS = "ABCDE"
OPTIONS = ["a0", "a1", "a2", "a3", "a4"]
MC_TYPES = ("CW", "CH", "TN", "TP", "TC", "DC", "DL", "DO")
OE_TYPES = (*MC_TYPES, "DB")


def groups_of(question_type: str) -> tuple[str, str]:
    """The official groups of a question type: its own (TP counts as TN) and its first letter: C, T or D."""
    return ("TN" if question_type == "TP" else question_type, question_type[0])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error


def _rows(folder: Path, columns: list[str], types: tuple[str, ...]) -> pd.DataFrame:
    """Rows of `test.csv` with `index` and `video_path` added; videos and the map may lie in the sister folder."""
    path = folder / "test.csv"
    table = read_csv(path, ["video", "question", "answer", "qid", "type", *columns])
    for position, kind in enumerate(table["type"]):
        if kind not in types:
            raise UserError(f"{path}, row {position + 1}: type {kind!r}; allowed are {', '.join(types)}")
    homes = [folder, folder.parent / "NExT-QA", folder.parent / "NExT-OE"]
    vidor: Mapping[str, str] = {}
    for home in homes:
        if (home / "map_vid_vidorID.json").is_file():
            vidor = _read_json(home / "map_vid_vidorID.json")
            break
    paths = {}
    for video in table["video"]:
        if video not in paths:
            names = [video, *([vidor[video]] if video in vidor else [])]
            found = find_video([home / "NExTVideo" for home in homes], names)
            if found is None:
                raise UserError(
                    f"{path} asks about video {video}, which is not there: "
                    f"no {' or '.join(f'{name}.mp4' for name in names)} in {homes[0] / 'NExTVideo'}"
                )
            paths[video] = str(found)
    table.insert(0, "index", range(len(table)))
    table["video_path"] = [paths[video] for video in table["video"]]
    return table


class NExTQA(LocalVideoDataset):
    """NExT-QA, multiple choice: five options, the letter is asked for. Accuracy overall, by type and by group."""

    TYPE = "Video-MCQ"
    DATASET = "NExT-QA"
    FOLDERS = ("NExT-QA",)

    def read(self, folder: Path) -> pd.DataFrame:
        """See the base class. `answer` must be 0 to 4."""
        table = _rows(folder, OPTIONS, MC_TYPES)
        for position, answer in enumerate(table["answer"]):
            if answer not in {"0", "1", "2", "3", "4"}:
                where = f"{folder / 'test.csv'}, row {position + 1} (video {table['video'][position]})"
                raise UserError(f"{where}: answer {answer!r} names no option; allowed are 0 to 4")
        return table

    def text(self, line: Any) -> str:
        """Question, lettered options, and the request for the letter."""
        options = [f"{letter}. {line[column]}" for letter, column in zip(LETTERS, OPTIONS, strict=True)]
        return "\n".join(
            [line["question"], *options, "Answer with the option's letter from the given choices directly."]
        )

    def evaluate(self, eval_file: str, **_: Any) -> dict[str, float]:
        """Official accuracy (eval_mc.py), percent: `overall`, every type, and the groups C, T, D.

        No judge is asked: a reply in which no option can be read is wrong.
        """
        predictions = answers_of(eval_file, self.data["index"])
        scores, groups = {}, {}
        for line in self.data.to_dict("records"):
            chosen = parse_choice(predictions[line["index"]], [line[column] for column in OPTIONS])
            scores[line["index"]] = float(chosen == LETTERS[int(line["answer"])])
            groups[line["index"]] = groups_of(line["type"])
        return grouped(scores, groups, 100.0)


class NExTOE(LocalVideoDataset):
    """NExT-QA, open-ended: a short phrase is asked for. WUPS with threshold 0, overall, by type and by group."""

    DATASET = "NExT-OE"
    FOLDERS = ("NExT-OE",)

    def read(self, folder: Path) -> pd.DataFrame:
        """See the base class. Adds `references`: the answer and, where the second file has one, the added answer."""
        table = _rows(folder, [], OE_TYPES)
        path = folder / "add_reference_answer_test.json"
        added = _read_json(path) if path.is_file() else {}
        references = []
        for line in table.to_dict("records"):
            extra = []
            if line["video"] in added:
                if line["qid"] not in added[line["video"]]:
                    raise UserError(f"{path} has no key {line['qid']!r} (a qid) for video {line['video']}")
                extra = [str(added[line["video"]][line["qid"]])]
            references.append((line["answer"], *extra))
        table["references"] = references
        return table

    def text(self, line: Any) -> str:
        """The question and the request for a short answer."""
        return f"{line['question']}\nAnswer a question using a short phrase or sentence."

    def evaluate(self, eval_file: str, **_: Any) -> dict[str, float]:
        """Official WUPS (NExT-OE, eval_oe.py), threshold 0, times 100. Raises UserError when WordNet is missing."""
        from harness.scoring.wups import WUPS

        wups = WUPS.load()
        predictions = answers_of(eval_file, self.data["index"])
        scores, groups = {}, {}
        for line in self.data.to_dict("records"):
            reply = predictions[line["index"]]
            scores[line["index"]] = wups.score(reply, line["references"], line["type"])
            groups[line["index"]] = groups_of(line["type"])
        return grouped(scores, groups, 100.0)


register_dataset(NExTQA)
register_dataset(NExTOE)
