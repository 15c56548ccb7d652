"""The TSV of an image benchmark: read as it is written, and checked before the kit builds on it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from harness.benchmarks import Benchmark
from harness.benchmarks.local_video import require_columns
from harness.data.sources import SOURCES, command
from harness.vlmevalkit import kit
from model_wrappers.errors import UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MME_PERCEPTION = (
    *("OCR", "artwork", "celebrity", "color", "count"),
    *("existence", "landmark", "position", "posters", "scene"),
)
MME_REASONING = ("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation")
MMVET_CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
# pandas would turn `None`, `N/A`, `007` in them into NaN and numbers, and the kit then leaves such an option out.
_TEXT = {"question", "answer", "hint", "category", "l2-category", "image_path", *LETTERS}
_NEVER_EMPTY = {"question", "answer"}
# Image cells up to this length are taken by the kit for the index of another row.
_REFERENCE = 64
_OPTIONS = ["A", "B"]
_NEEDED = {
    "MME": ["answer", "image", "category", "image_path"],
    "MMStar": [*_OPTIONS, "answer", "image", "category"],
    "SEEDBench_IMG": [*_OPTIONS, "answer", "image", "category"],
    "MMVet": ["answer", "image", "category"],
    "mcq": _OPTIONS,
    "circular": _OPTIONS,
    "exact": ["answer"],
}
_NEEDED_BY_NAME = {"POPE": ["category"], "AMBER": ["category", "image_path"], "HallusionBench": ["l2-category"]}


def reads_tsv(cls: Any) -> bool:
    """Whether a dataset class reads `LMUData/<name>.tsv`, and not something of its own."""
    own = [kit("vlmeval.dataset.image_base").ImageBaseDataset]
    own += [kit("vlmeval.dataset.image_mcq").CustomMCQDataset, kit("vlmeval.dataset.image_vqa").CustomVQADataset]
    return any(cls.load_data is known.load_data for known in own)


def missing(entry: Benchmark, cls: Any, path: Path) -> UserError:
    """What to say of a TSV that is not there."""
    url = cls.DATASET_URL.get(entry.kit_dataset)
    if entry.name in SOURCES:
        return UserError(
            f"{entry.name}: {path} does not exist; {command(entry.name, path.parent.parent)} gets it from {url}"
        )
    return UserError(f"{entry.name}: {path} does not exist{f'; get it from {url}' if url else ''}")


def source(entry: Benchmark, cls: Any, path: Path) -> dict[str, Any]:
    """The TSV's `file` name, its `md5`, and whether that is the `official` one (None: the kit knows none)."""
    known, md5 = cls.DATASET_MD5.get(entry.kit_dataset), _md5(path)
    return {"file": path.name, "md5": md5, "official": None if known is None else md5 == known}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def read(entry: Benchmark, path: Path, load: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The rows of the TSV: as the kit's `load` reads them, but for the texts, which stay as they are written.

    An empty text is NaN (no such option), but for an empty question or answer. Raises UserError for what is missing or
    malformed.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    try:
        table = load(str(path))
        raw = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, usecols=lambda name: name != "image")
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} cannot be read as TSV ({' '.join(str(error).split())})") from error
    scheme = entry.scored_as
    if scheme == "kit":  # an evaluation of its own may count on the types that the kit reads
        return table
    shown = [] if "image_path" in table else ["image"]
    needed = ["index", "question", *shown, *_NEEDED.get(scheme, []), *_NEEDED_BY_NAME.get(entry.kit_dataset, [])]
    require_columns(path, table, list(dict.fromkeys(needed)))
    for column in [name for name in raw if name in _TEXT]:
        texts = raw[column].astype(object)
        table[column] = texts if column in _NEVER_EMPTY else texts.where(texts != "")
    if "image" in table:
        _refuse_other_folders(path, table)
        table["image"] = _images(entry, path, table)
    elif "image_path" in table:
        table["image_path"] = [_located(path, str(value)) for value in table["image_path"]]
    _CHECKS.get(scheme, lambda *_: None)(path, table)
    return table


def _images(entry: Benchmark, path: Path, table: pd.DataFrame) -> list[Any]:
    """The column `image`, in which the kit cannot take a short picture for the index of another row.

    Base64 skips blanks, so a short one is made longer by them. What is short and neither of both fails as a picture.
    """
    cells = list(table["image"])
    indices = {str(index) for index in table["index"]}
    for position, cell in enumerate(cells):
        if pd.isna(cell):
            # The kit leaves such rows out in silence; for the paper's benchmarks that is a fault of the data.
            if entry.scheme == "":
                raise UserError(f"{path}, row {position + 1}, has no image")
        elif len(str(cell)) <= _REFERENCE and str(cell) not in indices:
            cells[position] = str(cell) + " " * (_REFERENCE + 1 - len(str(cell)))
    return cells


def _refuse_other_folders(path: Path, table: pd.DataFrame) -> None:
    for position, place in enumerate(table["image_path"] if "image_path" in table else []):
        if Path(str(place)).is_absolute() or ".." in Path(str(place)).parts:
            raise UserError(
                f"{path}, row {position + 1}: image_path {str(place)!r} leads out of the folder of pictures"
            )


def _located(path: Path, place: str) -> str:
    """An image path of a TSV without pictures; the kit takes relative ones from where the process happens to run."""
    if place.startswith("[") and place.endswith("]"):
        return str([_located(path, str(part)) for part in ast.literal_eval(place)])
    return str(path.parent / "images" / path.stem / place)  # an absolute path stays what it is


def _mme(path: Path, table: pd.DataFrame) -> None:
    known = [*MME_PERCEPTION, *MME_REASONING]
    for position, (answer, category) in enumerate(zip(table["answer"], table["category"], strict=True)):
        if answer not in {"Yes", "No"}:
            raise UserError(f"{path}, row {position + 1}: answer is {answer!r}; allowed are Yes and No")
        if category not in known:
            raise UserError(f"{path}, row {position + 1}: category is {category!r}; allowed are {', '.join(known)}")


def _choices(path: Path, table: pd.DataFrame) -> None:
    for position, row in enumerate(table.to_dict("records")):
        letters = [letter for letter in LETTERS if letter in row and not pd.isna(row[letter])]
        if row["answer"] not in letters:
            raise UserError(f"{path}, row {position + 1}: answer {row['answer']!r} names none of its options")


def _mmvet(path: Path, table: pd.DataFrame) -> None:
    for position, category in enumerate(table["category"]):
        for capability in str(category).split(","):
            if capability not in MMVET_CAPABILITIES:
                known = ", ".join(MMVET_CAPABILITIES)
                raise UserError(f"{path}, row {position + 1}: capability {capability!r}; allowed are {known}")


_CHECKS: dict[str, Callable[[Path, pd.DataFrame], None]] = {
    "MME": _mme,
    "MMStar": _choices,
    "SEEDBench_IMG": _choices,
    "MMVet": _mmvet,
}
