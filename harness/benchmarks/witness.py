"""Whether question files are the published ones, by the digests that are known of them.

Files of one's own are allowed, so nobody refuses others. But one that was placed by hand and is cut at the end of a row
reads like a whole one, and has no other witness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.benchmarks import benchmark
from harness.data.hub import snapshot
from harness.data.sources import SOURCES
from harness.vlmevalkit import kit


def unlike(name: str, data: Path) -> list[str]:
    """A sentence for each question file of a benchmark of the paper that is there and not the published one.

    Known are sha256 of the files of NExT-QA and ActivityNet-QA, and VLMEvalKit's md5 of image TSVs, of MMBench-Video's
    TSV, and of the TSVs that it makes itself of Video-MME's and MVBench's questions, once it has made them.
    """
    return [
        f"{path} has not the {kind} that {whose}: it is cut short or of another version"
        for path, kind, known, whose in _known(name, Path(data))
        if path.is_file() and _digest(path, kind) != known
    ]


def _known(name: str, data: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Of each file: path, kind of its digest, the digest, who knows it."""
    source = SOURCES.get(name)
    if source is None:
        return
    for file in source.files:
        yield data / file.place, "sha256", file.sha256, "its authors' file has"
    if not source.tsv and not source.hub:
        return
    entry = benchmark(name)
    cls = getattr(kit(entry.module), entry.class_name)
    if source.tsv:
        md5 = cls.DATASET_MD5.get(entry.kit_dataset)
        path: Path | None = data / "LMUData" / f"{source.tsv}.tsv"
    else:
        assert source.hub is not None
        md5, folder = getattr(cls, "MP4_MD5", None) or cls.MD5, snapshot(*source.hub, data)
        path = folder and folder / f"{entry.kit_dataset}.tsv"
    if md5 and path:
        yield path, "md5", md5, "VLMEvalKit knows"


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
