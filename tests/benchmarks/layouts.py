"""Small editions of the benchmarks on disk, in the layouts in which they are published."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

REVISION = "0123456789abcdef0123456789abcdef01234567"
LETTERS = "ABCDE"


@cache
def video_bytes(seed: int, frames: int = 16, side: int = 56) -> bytes:
    """An mp4 of coloured noise blocks; another seed is another video."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 8, (side, side))
        random = np.random.default_rng(seed)
        for _ in range(frames):
            blocks = random.integers(0, 256, (4, 4, 3))
            writer.write(np.kron(blocks, np.ones((side // 4, side // 4, 1))).astype(np.uint8))
        writer.release()
        return path.read_bytes()


def hub_folder(data: Path, repository: str, branch: str = "main") -> Path:
    """An empty snapshot of a hub dataset, as the hub cache lays it out."""
    root = data / "hub" / f"datasets--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "blobs").mkdir(exist_ok=True)
    (root / "refs" / branch).write_text(REVISION)
    folder = root / "snapshots" / REVISION
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def video_mme_question(number: int, answer: str = "B", **changes: Any) -> dict[str, Any]:
    """One row of the parquet file."""
    return {
        "videoID": f"vid{number % 2}",
        "duration": ["short", "medium", "long"][number % 3],
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "task_type": ["Object Recognition", "Temporal Reasoning"][number % 2],
        "question": f"What colour is block {number}?",
        "options": ["A. red", "B. green", "C. blue", "D. a cat"],
        "answer": answer,
        **changes,
    }


def video_mme(data: Path, questions: Sequence[dict[str, Any]] | None = None) -> Path:
    """Video-MME: zips of videos and a parquet file. Returns the snapshot folder."""
    questions = [video_mme_question(i, "ABCD"[i % 4]) for i in range(4)] if questions is None else questions
    folder = hub_folder(data, "lmms-lab/Video-MME")
    (folder / "subtitle").mkdir()
    with zipfile.ZipFile(folder / "videos_chunked_01.zip", "w") as archive:
        for seed, name in enumerate(sorted({q["videoID"] for q in questions})):
            archive.writestr(f"data/{name}.mp4", video_bytes(seed))
    (folder / "videomme").mkdir()
    pd.DataFrame(questions).to_parquet(folder / "videomme" / "test-00000-of-00001.parquet")
    return folder


def mvbench_question(number: int, answer: int = 1, **changes: Any) -> dict[str, Any]:
    """One entry of test.json."""
    candidates = ["red", "green", "blue"]
    return {
        "video": f"clip{number % 2}.mp4",
        "question": f"Which colour is block {number}?",
        "candidates": candidates,
        "answer": candidates[answer],
        **changes,
    }


def mvbench(data: Path, tasks: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    """MVBench, branch `video`: test.json and mp4 files under one prefix a task. Returns the snapshot folder."""
    if tasks is None:
        tasks = {
            "action_sequence": [mvbench_question(0, 0), mvbench_question(1, 1)],
            "object_count": [mvbench_question(2, 2), mvbench_question(3, 1)],
        }
    folder = hub_folder(data, "OpenGVLab/MVBench", "video")
    for task, items in tasks.items():
        for item in items:
            path = folder / task / item["video"]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(video_bytes(len(item["question"]) % 3))
    content = {"root": {task: f"{task}/" for task in tasks}, "meta": tasks}
    (folder / "test.json").write_text(json.dumps(content))
    return folder


def mmbench_row(number: int, answer: str = "a red block", **changes: Any) -> dict[str, Any]:
    """One row of MMBench-Video.tsv."""
    name = f"film{number % 2}"
    return {
        "index": number,
        "video": name,
        "video_path": f"./video/{name}.mp4",
        "video_type": "Science",
        "question": f"What is in the corner at second {number}?",
        "answer": answer,
        "dimensions": str([["Object Recognition"], ["Counting", "Future Prediction"]][number % 2]),
        **changes,
    }


def mmbench_video(data: Path, rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """MMBench-Video: a TSV and pickles of videos. Returns the snapshot folder."""
    rows = [mmbench_row(i) for i in range(4)] if rows is None else rows
    folder = hub_folder(data, "opencompass/MMBench-Video")
    pd.DataFrame(rows).to_csv(folder / "MMBench-Video.tsv", sep="\t", index=False)
    (folder / "video_pkl").mkdir()
    names = sorted({row["video"] for row in rows if "video" in row})
    videos = {name: video_bytes(seed) for seed, name in enumerate(names)}
    (folder / "video_pkl" / "0.pkl").write_bytes(pickle.dumps(videos))
    return folder


def next_row(number: int, answer: Any = 1, **changes: Any) -> dict[str, Any]:
    """One row of NExT-QA's test.csv, multiple choice."""
    return {
        "video": f"{4000 + number % 2}",
        "frame_count": 16,
        "width": 56,
        "height": 56,
        "question": f"why did block {number} move",
        "answer": answer,
        "qid": number,
        "type": ["CW", "TN", "TP", "DC", "TC", "DL", "CH", "DO"][number % 8],
        "a0": "red",
        "a1": "green",
        "a2": "blue",
        "a3": "a cat",
        "a4": "None",
        **changes,
    }


def _csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _next_videos(folder: Path, rows: Sequence[dict[str, Any]], *, vidor: bool) -> None:
    mapping = {}
    for seed, name in enumerate(sorted({str(row["video"]) for row in rows})):
        mapping[name] = f"{1000 + seed}/{name}"
        path = folder / "NExTVideo" / f"{mapping[name] if vidor else name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video_bytes(seed))
    (folder / "map_vid_vidorID.json").write_text(json.dumps(mapping))


def next_qa(data: Path, rows: Sequence[dict[str, Any]] | None = None, *, vidor: bool = False) -> Path:
    """NExT-QA multiple choice, videos flat or as VidOR lays them out. Returns its folder."""
    rows = [next_row(i, i % 5) for i in range(4)] if rows is None else rows
    folder = data / "NExT-QA"
    _csv(folder / "test.csv", rows)
    _next_videos(folder, rows, vidor=vidor)
    return folder


def oe_row(number: int, answer: str = "jump onto the sofa", kind: str | None = None) -> dict[str, Any]:
    """One row of NExT-OE's test.csv."""
    row = next_row(number, answer)
    for option in ("a0", "a1", "a2", "a3", "a4"):
        del row[option]
    row["type"] = kind or row["type"]
    return row


def next_oe(
    data: Path,
    rows: Sequence[dict[str, Any]] | None = None,
    added: dict[str, dict[str, str]] | None = None,
    *,
    videos: bool = True,
) -> Path:
    """NExT-QA open-ended; its videos lie in the multiple-choice folder, as the official files share them."""
    rows = [oe_row(i) for i in range(4)] if rows is None else rows
    folder = data / "NExT-OE"
    _csv(folder / "test.csv", rows)
    if added is not None:
        (folder / "add_reference_answer_test.json").write_text(json.dumps(added))
    if videos:
        (data / "NExT-QA").mkdir(exist_ok=True)
        _next_videos(data / "NExT-QA", rows, vidor=False)
    return folder


def activitynet(data: Path, pairs: Sequence[tuple[str, str, int]] | None = None, *, suffix: str = ".mp4") -> Path:
    """ActivityNet-QA from (question, answer, type). Returns its folder."""
    pairs = [("is the block red", "yes", 3), ("what colour is it", "red", 4)] if pairs is None else pairs
    folder = data / "ActivityNet-QA"
    (folder / "all_test").mkdir(parents=True)
    questions, answers = [], []
    for number, (question, answer, kind) in enumerate(pairs):
        name = f"abc{number % 2}"
        key = f"v_{name}_{number}"
        questions.append({"video_name": name, "question": question, "question_id": key})
        answers.append({"answer": answer, "type": kind, "question_id": key})
        path = folder / "all_test" / f"v_{name}{suffix}"
        path.write_bytes(video_bytes(number % 2))
    (folder / "test_q.json").write_text(json.dumps(questions))
    (folder / "test_a.json").write_text(json.dumps(answers))
    return folder


@cache
def picture(seed: int, side: int = 28, kind: str = "PNG") -> str:
    """The base64 of an image of coloured blocks; another seed is another image."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((side // 4, side // 4, 1), dtype=np.uint8))
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return base64.b64encode(content.getvalue()).decode()


def tsv(data: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """`LMUData/<name>.tsv`, as VLMEvalKit reads image benchmarks. Returns the file."""
    path = data / "LMUData" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


MME_CATEGORIES = [
    *("OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene"),
    *("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation"),
]


def mme_pair(number: int, category: str = "color", answers: Sequence[str] = ("Yes", "No")) -> list[dict[str, Any]]:
    """The two rows of MME's image `number`."""
    return [
        {
            "index": 2 * number + part,
            "category": category,
            "question": f"Is block {number} {['red', 'green'][part]}? Please answer yes or no.",
            "answer": answer,
            "image": picture(number),
            "image_path": f"{category}/{number:04}.png",
        }
        for part, answer in enumerate(answers)
    ]


def mme(data: Path, rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """MME: two questions an image, one image a category."""
    if rows is None:
        rows = [row for number, category in enumerate(MME_CATEGORIES) for row in mme_pair(number, category)]
    return tsv(data, "MME", rows)


def choice_row(number: int, answer: str = "B", **changes: Any) -> dict[str, Any]:
    """One row of MMStar, SEEDBench_IMG or another multiple-choice TSV."""
    return {
        "index": number,
        "question": f"What colour is block {number}?",
        "A": "red",
        "B": "green",
        "C": "blue",
        "D": "a cat",
        "answer": answer,
        "category": ["coarse perception", "math"][number % 2],
        "image": picture(number),
        **changes,
    }


def mmstar(data: Path, rows: Sequence[dict[str, Any]] | None = None, name: str = "MMStar") -> Path:
    """MMStar, or another multiple-choice TSV of that form."""
    return tsv(data, name, [choice_row(i, "ABCD"[i % 4]) for i in range(4)] if rows is None else rows)


def seedbench(data: Path, rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """SEEDBench_IMG."""
    return mmstar(data, rows, "SEEDBench_IMG")


def mmvet_row(number: int, answer: str = "a red block", category: str = "rec") -> dict[str, Any]:
    """One row of MMVet."""
    return {
        "index": f"v1_{number}",
        "question": f"What is in corner {number}?",
        "answer": answer,
        "category": category,
        "image": picture(number),
    }


def mmvet(data: Path, rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """MMVet; all six capabilities."""
    if rows is None:
        capabilities = ["rec", "ocr,math", "rec,know,gen", "ocr,spat"]
        rows = [mmvet_row(i, ["a red block", "7"][i % 2], capabilities[i]) for i in range(4)]
    return tsv(data, "MMVet", rows)


def circular(data: Path, questions: int = 2, name: str = "MMBench_DEV_EN") -> Path:
    """MMBench: each question four times, its options rotated; later rotations point to the first one's image."""
    rows = []
    for number in range(questions):
        options = ["red", "green", "blue", "a cat"]
        for turn in range(4):
            row = choice_row(number + 1_000_000 * turn, "ABCD"[(1 - turn) % 4], split="dev")
            row |= dict(zip("ABCD", options[turn:] + options[:turn], strict=True))
            row["l2-category"] = row.pop("category")
            rows.append({**row, "image": picture(number) if turn == 0 else str(number)})
    return tsv(data, name, rows)


def pope(data: Path, answers: Sequence[str] = ("Yes", "No", "Yes", "No"), name: str = "POPE") -> Path:
    """POPE, or another yes/no TSV of that form."""
    rows = [
        {
            "index": number,
            "question": f"Is there a block {number} in the image?",
            "answer": answer,
            "category": ["random", "popular,adversarial"][number % 2],
            "image": picture(number // 2),
        }
        for number, answer in enumerate(answers)
    ]
    return tsv(data, name, rows)


def hallusion(data: Path) -> Path:
    """HallusionBench: its index names set, figure and question."""
    rows = [
        {
            "index": f"VD_illusion_x_{number // 2}_0_{number % 2}",
            "question": f"Is line {number} longer?",
            "answer": ["Yes", "No"][number % 2],
            "category": "VD",
            "l2-category": "illusion",
            "image": picture(number // 2),
        }
        for number in range(4)
    ]
    return tsv(data, "HallusionBench", rows)


def vqa(data: Path, name: str, answers: Sequence[Any], **columns: Any) -> Path:
    """An open TSV: TextVQA_VAL and OCRVQA (answers as a list), ChartQA_TEST, DocVQA_VAL, or one of one's own."""
    rows = [
        {"index": i, "question": f"What does sign {i} say?", "answer": answer, "image": picture(i), **columns}
        for i, answer in enumerate(answers)
    ]
    return tsv(data, name, rows)


IMAGES: dict[str, Callable[..., Path]] = {
    "MME": mme,
    "MMStar": mmstar,
    "MMVet": mmvet,
    "SEEDBench_IMG": seedbench,
}
VIDEOS: dict[str, Callable[..., Path]] = {
    "Video-MME": video_mme,
    "MVBench": mvbench,
    "MMBench-Video": mmbench_video,
    "NExT-QA-MC": next_qa,
    "NExT-QA-OE": next_oe,
    "ActivityNet-QA": activitynet,
}
WRITERS = IMAGES | VIDEOS
