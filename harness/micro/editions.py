"""Micro editions of the benchmarks, written in the on-disk formats that the real dataset classes read.

Everything is drawn from fixed seeds and from held-out scenes only, so the folder is the same on every machine and none
of its scenes was trained on; `manifest.json` lists every scene's digest, and `write` refuses a scene of the training
split. The folder's name carries a digest of the generator's own source: change the generator and new data are written.

    hub/datasets--lmms-lab--Video-MME/...          Video-MME      zip of mp4, parquet
    hub/datasets--OpenGVLab--MVBench/...           MVBench        test.json and mp4 (the hub's branch `video`)
    hub/datasets--opencompass--MMBench-Video/...   MMBench-Video  TSV and mp4
    NExT-QA/, NExT-OE/                             NExT-QA        csv, id map, reference answers, mp4
    ActivityNet-QA/                                ActivityNet-QA two json files, mp4
    LMUData/*.tsv                                  MME, MMStar, MMVet, SEEDBench_IMG (harness.micro.image_editions)
    evidence/<benchmark>.json                      the cells each question is about:
                                                   {index: {"grid": [T, H, W], "cells": [[t, row, column], ...]}}
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.disk import disk_errors
from harness.micro import image_editions, items, prompts, questions, scenes
from harness.micro.items import PER_MEDIUM, QUESTIONS, Item
from harness.micro.prompts import LETTERS, VIDEO_FORMATS, as_asked
from harness.micro.scenes import CELL, FPS, FRAMES_PER_SEGMENT, Scene, render, sample_scene

_REVISION = "0" * 40


def digest() -> str:
    """First 12 hex digits of SHA-256 over the generator's source files: the name of its output."""
    modules = (scenes, questions, prompts, items, image_editions)
    sources = [Path(module.__file__ or "") for module in modules] + [Path(__file__)]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def ensure(root: Path) -> Path:
    """The folder `root/micro-<digest>`, written on first use (a few seconds). StoreError when the disk refuses."""
    folder = root / f"micro-{digest()}"
    if not (folder / "manifest.json").is_file():
        with disk_errors(folder):
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".micro-") as draft:
                write(Path(draft))
                shutil.rmtree(folder, ignore_errors=True)
                Path(draft).rename(folder)
                Path(draft).mkdir()
    return folder


def write(folder: Path) -> None:
    """Writes all editions; the manifest last."""
    manifest = {}
    for name, writer in WRITERS.items():
        manifest[name] = _write(name, folder, writer(folder, _held_out(name, draw(name))))
    for name in image_editions.FORMATS:
        drawn = _held_out(name, image_editions.draw(name))
        manifest[name] = _write(name, folder, image_editions.write(name, folder, drawn))
    _json(folder / "manifest.json", manifest)


def _held_out(name: str, drawn: list[Item]) -> list[Item]:
    """The same items. RuntimeError if a scene of theirs is one that may be trained on."""
    trained = [item.medium for item in drawn if not item.scene.held_out]
    if trained:
        raise RuntimeError(f"{name}: {len(trained)} scenes belong to the training split, first {trained[0]!r}")
    return drawn


def _write(name: str, folder: Path, ordered: list[Item]) -> dict[str, object]:
    """Writes the evidence of an edition; what the manifest says of it."""
    keys = [image_editions.key(name, position) for position in range(len(ordered))]
    _json(folder / "evidence" / f"{name}.json", dict(zip(keys, map(_evidence, ordered), strict=True)))
    return {
        "questions": len(ordered),
        "temporal": sum(item.question.topic in questions.TEMPORAL for item in ordered),
        "topics": [item.question.topic for item in ordered],
        "scenes": {item.medium: item.scene.digest for item in ordered},
    }


def _evidence(item: Item) -> dict[str, object]:
    cells = sorted([sight.segment, sight.row, sight.col] for sight in item.question.evidence)
    return {"grid": [item.scene.segments, item.scene.side, item.scene.side], "cells": cells}


def draw(name: str) -> list[Item]:
    """The questions of an edition, two a video, topics in turn. Same on every machine."""
    form = VIDEO_FORMATS[name]
    rng = np.random.default_rng([sum(name.encode()), len(name), 2026])
    topics = [topic for topic in questions.TOPICS if not (form.options and topic == "yesno")]
    drawn: list[Item] = []
    while len(drawn) < QUESTIONS:
        scene = sample_scene(rng, video=True, held_out=True)
        video = f"{name.lower().replace('-', '')}{len(drawn) // PER_MEDIUM:03d}"
        asked = questions.questions(scene, rng)
        wanted = [topics[(len(drawn) + i) % len(topics)] for i in range(PER_MEDIUM)]
        chosen = [next((q for q in asked if q.topic == topic), None) for topic in wanted]
        if None in chosen:
            continue
        for question in chosen:
            assert question is not None
            options = tuple(question.options(rng, form.options)) if form.options else ()
            drawn.append(Item(video, scene, question, as_asked(name, question.text), options))
    return drawn


def write_video(path: Path, scene: Scene, seed: int) -> None:
    """An mp4 of SEGMENTS x FRAMES_PER_SEGMENT frames at FPS frames a second."""
    import cv2

    side = scene.side * CELL
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (side, side))
    if not writer.isOpened():
        raise RuntimeError(f"{path}: OpenCV cannot write mp4 on this machine")
    for picture in render(scene, np.random.default_rng(seed)):
        for _ in range(FRAMES_PER_SEGMENT):
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()


def _videos(items: list[Item], folder: Path, name: str = "{}.mp4") -> Iterator[tuple[str, Path]]:
    """Writes each video of the items once; yields its id and path."""
    for number, (video, scene) in enumerate({item.medium: item.scene for item in items}.items()):
        path = folder / name.format(video)
        write_video(path, scene, seed=number)
        yield video, path


def _hub(folder: Path, repo: str, branch: str) -> Path:
    """A snapshot folder in the hub cache's layout."""
    base = folder / "hub" / f"datasets--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / _REVISION
    snapshot.mkdir(parents=True)
    (base / "blobs").mkdir()
    (base / "refs").mkdir()
    (base / "refs" / branch).write_text(_REVISION)
    return snapshot


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


_VIDEO_MME_TASKS = {
    "color": "Attribute Perception",
    "kind": "Object Recognition",
    "where": "Spatial Perception",
    "when": "Temporal Perception",
    "before": "Temporal Reasoning",
    "after": "Temporal Reasoning",
    "motion": "Action Recognition",
}


def _video_mme(folder: Path, items: list[Item]) -> list[Item]:
    import pandas as pd

    snapshot = _hub(folder, "lmms-lab/Video-MME", "main")
    (snapshot / "subtitle").mkdir()
    with zipfile.ZipFile(snapshot / "videos_chunked_01.zip", "w") as archive, tempfile.TemporaryDirectory() as draft:
        for video, path in _videos(items, Path(draft)):
            archive.write(path, f"data/{video}.mp4")
    rows = [
        {
            "video_id": f"{index // PER_MEDIUM:03d}",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Technology",
            "url": "",
            "videoID": item.medium,
            "question_id": f"{index // PER_MEDIUM:03d}-{index % PER_MEDIUM + 1}",
            "task_type": _VIDEO_MME_TASKS[item.question.topic],
            "question": item.text,
            "options": [f"{letter}. {option}" for letter, option in zip(LETTERS, item.options, strict=False)],
            "answer": item.letter,
        }
        for index, item in enumerate(items)
    ]
    (snapshot / "videomme").mkdir()
    pd.DataFrame(rows).to_parquet(snapshot / "videomme" / "test-00000-of-00001.parquet")
    return items


_MVBENCH_TASKS = {
    "color": "Moving Attribute",
    "kind": "Object Existence",
    "where": "Scene Transition",
    "when": "Action Localization",
    "before": "State Change",
    "after": "Action Sequence",
    "motion": "Moving Direction",
}


def _mvbench(folder: Path, items: list[Item]) -> list[Item]:
    snapshot = _hub(folder, "OpenGVLab/MVBench", "video")
    for _ in _videos(items, snapshot / "video" / "micro"):
        pass
    meta: dict[str, list[dict[str, object]]] = {}
    ordered = []
    for topic, task in _MVBENCH_TASKS.items():
        chosen = [item for item in items if item.question.topic == topic]
        ordered += chosen
        meta[task] = [
            {
                "video": f"{item.medium}.mp4",
                "question": item.text,
                "candidates": list(item.options),
                "answer": item.question.answer,
            }
            for item in chosen
        ]
    _json(snapshot / "test.json", {"root": {task: "video/micro" for task in meta}, "meta": meta})
    return ordered


_MMBENCH_DIMENSIONS = {
    "color": "Attribute Recognition",
    "kind": "Object Recognition",
    "where": "Spatial Relationship",
    "when": "Event Recognition",
    "before": "Causal Reasoning",
    "after": "Future Prediction",
    "motion": "Human Motion",
    "yesno": "Hallucination",
}


def _mmbench_video(folder: Path, items: list[Item]) -> list[Item]:
    snapshot = _hub(folder, "opencompass/MMBench-Video", "main")
    (snapshot / "video_pkl").mkdir()
    for _ in _videos(items, snapshot / "video"):
        pass
    with (snapshot / "MMBench-Video.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["index", "video", "video_path", "video_type", "question", "answer", "dimensions"])
        for index, item in enumerate(items):
            dimensions = [_MMBENCH_DIMENSIONS[item.question.topic]]
            path = f"./video/{item.medium}.mp4"
            table.writerow([index, item.medium, path, "micro", item.text, item.question.answer, dimensions])
    return items


_NEXTQA_TYPES = {
    "color": "DO",
    "kind": "DO",
    "where": "DL",
    "when": "TC",
    "before": "TP",
    "after": "TN",
    "motion": "CH",
    "yesno": "DB",
}
_NEXTQA_COLUMNS = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type"]


def _nextqa_row(item: Item, index: int) -> list[object]:
    side = item.scene.side * CELL
    frames = item.scene.segments * FRAMES_PER_SEGMENT
    answer: object = item.options.index(item.question.answer) if item.options else item.question.answer
    kind = _NEXTQA_TYPES[item.question.topic]
    return [item.medium, frames, side, side, item.text, answer, index % PER_MEDIUM, kind, *item.options]


def _nextqa_mc(folder: Path, items: list[Item]) -> list[Item]:
    home = folder / "NExT-QA"
    for _ in _videos(items, home / "NExTVideo"):
        pass
    with (home / "test.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*_NEXTQA_COLUMNS, "a0", "a1", "a2", "a3", "a4"])
        table.writerows(_nextqa_row(item, index) for index, item in enumerate(items))
    return items


def _nextqa_oe(folder: Path, items: list[Item]) -> list[Item]:
    for _ in _videos(items, folder / "NExT-QA" / "NExTVideo"):
        pass
    home = folder / "NExT-OE"
    home.mkdir()
    with (home / "test.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_NEXTQA_COLUMNS)
        table.writerows(_nextqa_row(item, index) for index, item in enumerate(items))
    second: dict[str, dict[str, str]] = {}
    for index, item in enumerate(items):
        second.setdefault(item.medium, {})[str(index % PER_MEDIUM)] = item.question.answer
    _json(home / "add_reference_answer_test.json", second)
    known = sorted(path.stem for path in (folder / "NExT-QA" / "NExTVideo").iterdir())
    _json(folder / "NExT-QA" / "map_vid_vidorID.json", {video: video for video in known})
    return items


_ACTIVITYNET_TYPES = {
    "motion": 0,
    "where": 1,
    "when": 2,
    "before": 2,
    "after": 2,
    "yesno": 3,
    "color": 4,
    "kind": 5,
}


def _activitynet(folder: Path, items: list[Item]) -> list[Item]:
    home = folder / "ActivityNet-QA"
    for _ in _videos(items, home / "all_test", "v_{}.mp4"):
        pass
    asked, answered = [], []
    for index, item in enumerate(items):
        key = f"v_{item.medium}_{index % PER_MEDIUM + 1}"
        asked.append({"video_name": item.medium, "question": item.text, "question_id": key})
        kind = _ACTIVITYNET_TYPES[item.question.topic]
        answered.append({"answer": item.question.answer, "type": kind, "question_id": key})
    _json(home / "test_q.json", asked)
    _json(home / "test_a.json", answered)
    return items


WRITERS = {
    "Video-MME": _video_mme,
    "MVBench": _mvbench,
    "MMBench-Video": _mmbench_video,
    "NExT-QA-MC": _nextqa_mc,
    "NExT-QA-OE": _nextqa_oe,
    "ActivityNet-QA": _activitynet,
}
"""Each writes its edition and returns the items in the order of the dataset's own index."""
