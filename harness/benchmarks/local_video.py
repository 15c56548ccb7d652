"""Base of the dataset classes that VLMEvalKit lacks: official question files and videos in a local folder."""

from __future__ import annotations

import mimetypes
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import portalocker
from PIL import Image

from harness.vlmevalkit import kit
from model_wrappers.errors import UserError

SUFFIXES = (".mp4", ".mkv", ".webm")
# The kit refuses a message whose file has no known media type, and Python's table lacks Matroska.
mimetypes.add_type("video/x-matroska", ".mkv")

_VideoBaseDataset: Any = kit("vlmeval.dataset.video_base").VideoBaseDataset


class LocalVideoDataset(_VideoBaseDataset):
    """A VLMEvalKit video dataset read from official files.

    A subclass says `FOLDERS` (where its files may lie, under the data folder), `read(folder)` -> rows with at least
    `index`, `video` (str, the video's id), `video_path` (absolute), `question`, and `text(line)` -> what is asked.
    Videos may be mp4, mkv or webm. The message is the video (or its frames), then the text.
    """

    TYPE = "Video-VQA"
    DEFAULT_JUDGE = "exact_matching"
    DATASET = ""
    FOLDERS: tuple[str, ...] = ()

    def __init__(self, dataset: str | None = None, nframe: int = 0, fps: float = -1) -> None:
        super().__init__(dataset=dataset or self.DATASET, nframe=nframe, fps=fps)

    @classmethod
    def supported_datasets(cls) -> list[str]:
        """The one name under which the kit knows this dataset."""
        return [cls.DATASET] if cls.DATASET else []

    @classmethod
    def locate(cls) -> Path:
        """The folder with the official files: beside LMUData or inside it. Raises UserError when there is none."""
        lmu = Path(kit("vlmeval.smp").LMUDataRoot())
        places = [base / folder for base in (lmu.parent, lmu) for folder in cls.FOLDERS]
        for place in places:
            if place.is_dir():
                return place
        raise UserError(f"{cls.DATASET}: no folder with its files; looked for {' and '.join(map(str, places))}")

    def prepare_dataset(self, dataset: str) -> dict[str, str]:
        """Read the official files; hand the rows to the kit's loader as a pickle, which keeps every text as it is."""
        folder = self.locate()
        rows = self.read(folder)
        lmu = Path(kit("vlmeval.smp").LMUDataRoot())
        target = lmu / f"{dataset}.pkl"
        try:
            handle, temporary = tempfile.mkstemp(dir=lmu, suffix=".pkl")
            with os.fdopen(handle, "wb") as file:
                pickle.dump(rows, file)
            os.replace(temporary, target)
        except OSError as error:
            raise UserError(f"{target} cannot be written ({error.strerror})") from error
        return {"root": str(folder), "data_file": str(target)}

    def read(self, folder: Path) -> pd.DataFrame:
        """The rows. Raises UserError for what is missing or malformed."""
        raise NotImplementedError

    def text(self, line: Any) -> str:
        """What the prompt says after the video."""
        raise NotImplementedError

    def build_prompt(self, line: Any, video_llm: bool) -> list[dict[str, str]]:
        """The kit's message for row `line` (a position or a row): one video, or `nframe` frames, then the text."""
        if isinstance(line, int):
            line = self.data.iloc[line]
        if video_llm:
            message = [{"type": "video", "value": line["video_path"]}]
        else:
            message = [{"type": "image", "value": path} for path in self.save_video_frames(line["video"])]
        return [*message, {"type": "text", "value": self.text(line)}]

    def save_video_frames(self, video: str) -> list[str]:
        """The frames of `video` as the kit's base class samples and caches them, whatever the container.

        The base class can only open `<root>/<video>.mp4`; its sampling rule, names, cache and lock are kept.
        """
        import decord

        path = self.data.loc[self.data["video"] == video, "video_path"].iloc[0]
        reader = decord.VideoReader(path)
        if self.fps > 0:
            rate = reader.get_avg_fps()
            chosen = [int(i * rate / self.fps) for i in range(int(len(reader) / rate * self.fps))]
            targets = self.frame_paths_fps(video, len(chosen))
        else:
            chosen = [int(i * len(reader) / (self.nframe + 1)) for i in range(1, self.nframe + 1)]
            targets = self.frame_paths(video)
        if not all(map(os.path.exists, targets)):
            with portalocker.Lock(os.path.join(self.frame_root, f"{video}.lock"), "w", timeout=30):
                for position, target in zip(chosen, targets, strict=True):
                    if not os.path.exists(target):
                        Image.fromarray(reader[position].asnumpy()).save(target)
        return targets


def find_video(folders: list[Path], names: list[str]) -> Path | None:
    """The first existing file among `folders` x `names` x SUFFIXES."""
    for candidate in _candidates(folders, names):
        if candidate.is_file():
            return candidate
    return None


def _candidates(folders: list[Path], names: list[str]) -> Iterator[Path]:
    for folder in folders:
        for name in names:
            for suffix in SUFFIXES:
                yield folder / f"{name}{suffix}"


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """A csv whose cells all stay text (`None`, `007` and empty cells included). UserError names a missing column."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as csv ({' '.join(str(error).split())})") from error
    require_columns(path, table, columns)
    if table.empty:
        raise UserError(f"{path} has no rows")
    return table


def require_columns(path: Path, table: pd.DataFrame, columns: list[str]) -> None:
    """UserError if `table`, read from `path`, lacks one of `columns`."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; it needs {', '.join(columns)}")
