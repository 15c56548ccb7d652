"""What must be on disk before VLMEvalKit opens its three hub benchmarks, checked first and told in clear sentences.

The kit would fail on the same faults deep inside, or hours later when it scores.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from harness.benchmarks.local_video import require_columns
from harness.data.hub import snapshot
from harness.data.sources import SOURCES, command
from harness.vlmevalkit import hub_cache, kit
from model_wrappers.errors import UserError


def check(name: str, data: Path) -> Path | None:
    """Check the files of benchmark `name`; its snapshot folder, or None for one that is not of the hub.

    Raises UserError, naming file and field, for what is missing or malformed.
    """
    known = SOURCES.get(name)
    if known is None or known.hub is None:
        return None
    folder = snapshot(*known.hub, data)
    if folder is None:
        raise UserError(f"{name} is not in {hub_cache(data)}; {command(name, data)} gets it from the hub")
    _CHECKS[name](folder)
    return folder


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    return path


def _one_of(path: Path, table: pd.DataFrame, column: str, allowed: list[str]) -> None:
    for position, value in enumerate(table[column]):
        if value not in allowed:
            raise UserError(f"{path}, row {position + 1}: {column} is {value!r}; allowed are {', '.join(allowed)}")


def _video_mme(folder: Path) -> None:
    path = _file(folder, "videomme/test-00000-of-00001.parquet")
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet ({error})") from error
    columns = ["videoID", "duration", "domain", "sub_category", "task_type", "question", "options", "answer"]
    require_columns(path, table, columns)
    lists = kit("vlmeval.dataset.utils.videomme")
    _one_of(path, table, "duration", lists.DURATIONS)
    _one_of(path, table, "domain", lists.DOMAINS)
    _one_of(path, table, "sub_category", lists.SUB_CATEGORIES)
    _one_of(path, table, "task_type", lists.TASK_CATEGORIES)
    for position, (answer, options) in enumerate(zip(table["answer"], table["options"], strict=True)):
        if answer not in list("ABCD")[: len(options)]:
            raise UserError(f"{path}, row {position + 1}: answer {answer!r} names none of its {len(options)} options")
    if not (folder / "subtitle").is_dir():
        _file(folder, "subtitle.zip")
    if not (folder / "video").is_dir() and not list(folder.glob("video*.zip")):
        raise UserError(f"{folder} has neither videos_chunked_*.zip nor a folder video")


def _mvbench(folder: Path) -> None:
    path = _file(folder, "test.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
    for key in ("root", "meta"):
        if not isinstance(content, dict) or key not in content:
            raise UserError(f"{path} has no key {key!r}; it needs root and meta")
        if not isinstance(content[key], dict):
            raise UserError(f"{path}: {key} is no object; it needs an entry for each task")
    for task, items in content["meta"].items():
        if task not in content["root"]:
            raise UserError(f"{path}: task {task!r} has no entry under root")
        if not isinstance(items, list):
            raise UserError(f"{path}: task {task!r} is no list of questions")
        for position, item in enumerate(items):
            where = f"{path}, task {task!r}, question {position + 1}"
            for key in ("video", "question", "answer", "candidates"):
                if not isinstance(item, dict) or key not in item:
                    raise UserError(f"{where}, has no key {key!r}; it needs video, question, answer, candidates")
            if not isinstance(item["candidates"], list) or item["answer"] not in item["candidates"]:
                raise UserError(f"{where}: the answer {item['answer']!r} is none of its candidates")


def _mmbench_video(folder: Path) -> None:
    path = _file(folder, "MMBench-Video.tsv")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} cannot be read as TSV ({' '.join(str(error).split())})") from error
    require_columns(path, table, ["index", "video", "video_path", "question", "answer", "dimensions"])
    known = kit("vlmeval.dataset.utils.mmbench_video").L3_DIMS
    for position, value in enumerate(table["dimensions"]):
        where = f"{path}, row {position + 1}"
        try:
            names: Any = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            names = None
        if not isinstance(names, list):
            raise UserError(f"{where}: dimensions is {value!r}; it must be a list such as ['OCR']")
        for dimension in names:
            if dimension not in known:
                raise UserError(f"{where}: dimension {dimension!r} is not known; allowed are {', '.join(known)}")
    if not (folder / "video_pkl").is_dir():
        raise UserError(f"{folder / 'video_pkl'} does not exist")


_CHECKS: dict[str, Callable[[Path], None]] = {
    "Video-MME": _video_mme,
    "MVBench": _mvbench,
    "MMBench-Video": _mmbench_video,
}
