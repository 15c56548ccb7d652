"""Benchmarks about images, opened: VLMEvalKit's image datasets, read from `LMUData/<name>.tsv`."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import portalocker

from harness.benchmarks import Benchmark, tsv
from harness.benchmarks.opened import OpenBenchmark, cannot_open, first_sentence
from harness.benchmarks.videos import hash_file
from harness.vlmevalkit import data_root, kit, local_tsv, quiet
from model_wrappers.errors import SampleError, UserError


def open_images(entry: Benchmark, data: Path, frames: int, pictures: Path | None) -> OpenImages:
    """See `harness.benchmarks.open_benchmark`."""
    cls = getattr(kit(entry.module), entry.class_name)
    path = data / "LMUData" / f"{entry.kit_dataset}.tsv"
    with data_root(data):
        if tsv.reads_tsv(cls) and not path.is_file():
            raise tsv.missing(entry, cls, path)
        try:
            with (
                portalocker.Lock(data / "LMUData" / f"{entry.name}.lock", timeout=3600),
                quiet(),
                local_tsv(cls, entry.kit_dataset, path, lambda load: tsv.read(entry, path, load)),
            ):
                dataset = cls(dataset=entry.kit_dataset)
        except OSError as error:
            raise UserError(f"{entry.name}: {error.filename or data}: {first_sentence(error)}") from error
        except Exception as error:
            raise cannot_open(entry, data, error) from error
    opened = OpenImages(entry, dataset, data, frames, pictures)
    if path.is_file():
        opened.source = tsv.source(entry, cls, path)
    return opened


class OpenImages(OpenBenchmark):
    """A benchmark about images: base64 in the TSV, or files that it names.

    Decoded pictures lie in `<pictures>/<digest of the picture>/`: the kit never writes one anew that it
    finds, so a name alone would show the picture of an older TSV, or of another row with the same `image_path`.

    `source`: the TSV's `file` name, its `md5`, and whether that is the `official` one (None: the kit knows none).
    """

    source: dict[str, Any] | None = None

    def message(self, i: int, *, video_llm: bool = True) -> list[dict[str, str]]:
        """See the base class."""
        with self._decoding(self.rows.iloc[int(i)]):
            message = self.dataset.build_prompt(int(i))
        for part in message:
            if part["type"] == "image" and not Path(part["value"]).is_file():
                raise SampleError(f"image {part['value']} of question {self.indices[i]} does not exist")
        return message

    def dump_image(self, line: Any) -> list[str]:
        """See the base class."""
        with self._decoding(line):
            paths = self.dataset.dump_image(line)
        return [paths] if isinstance(paths, str) else list(paths)

    @contextmanager
    def _decoding(self, line: Any) -> Iterator[None]:
        """Has the kit keep the pictures of `line` in a folder of their own, and turns its faults into SampleErrors."""
        from PIL import Image, UnidentifiedImageError

        with self._lock:
            shared = getattr(self.dataset, "img_root", None)
            if shared is not None and "image" in line:
                self.dataset.img_root = str(self.pictures / _picture(line)[:12])
            try:
                yield
            except (ValueError, OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    place = error.filename or getattr(self.dataset, "img_root", None)
                    raise UserError(f"{self.name}: {place}: {error.strerror}") from error
                # Pillow names the object's address here, which no two runs share.
                unknown = isinstance(error, UnidentifiedImageError)
                reason = "it is no image" if unknown else " ".join(str(error).split())
                raise SampleError(f"the image of question {line['index']} cannot be decoded ({reason})") from error
            finally:
                if shared is not None:
                    self.dataset.img_root = shared

    def media(self, i: int) -> list[str]:
        """See the base class. Decodes the pictures; SampleError when one cannot be."""
        return [part["value"] for part in self.message(i) if part["type"] == "image"]

    def problem(self, i: int) -> str | None:
        """See the base class."""
        from PIL import Image

        try:
            for path in self.media(i):
                with Image.open(path) as image:
                    image.load()
        except SampleError as error:
            return str(error)
        except (OSError, SyntaxError, Image.DecompressionBombError):
            return f"image {path} cannot be decoded; it is damaged or not an image"
        return None

    @cached_property
    def clusters(self) -> list[str]:
        """See the base class: the digest of the pictures."""
        return [_picture(line)[:16] for line in self._lines]

    @cached_property
    def digest(self) -> str:
        """sha256 of the questions and the pictures: those in the TSV whole, files as videos are (see there)."""
        hashed = hashlib.sha256()
        for line in self._lines:
            said = {key: value for key, value in line.items() if key not in {"image", "prediction"}}
            hashed.update(json.dumps(said, sort_keys=True, default=str).encode())
            hashed.update(_picture(line).encode())
        if "image" not in self.rows:
            paths = {path for i in range(len(self)) for path in self.dump_image(self.rows.iloc[i])}
            for path in sorted(path for path in paths if Path(path).is_file()):
                hash_file(hashed, path)
        return hashed.hexdigest()

    @property
    def _lines(self) -> list[dict[str, Any]]:
        return [{str(key): value for key, value in line.items()} for line in self.rows.to_dict("records")]


def _picture(line: Any) -> str:
    """sha256 of what a row shows: its base64 text, or the paths of its files."""
    shown = line["image"] if "image" in line else line["image_path"]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()
