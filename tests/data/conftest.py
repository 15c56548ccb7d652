"""Servers on this machine with all that `retain data` downloads, in small and in the published layouts."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tenacity

from harness.data import sources
from harness.vlmevalkit import kit
from model_wrappers import download as downloading
from tests.benchmarks import layouts
from tests.loopback_hub import Hub, Repository, folder_files, serving, use

CLASSES = {
    "MME": ("image_yorn", "ImageYORNDataset"),
    "MMStar": ("image_mcq", "ImageMCQDataset"),
    "SEEDBench_IMG": ("image_mcq", "ImageMCQDataset"),
    "MMVet": ("image_vqa", "MMVet"),
}


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """All that can be downloaded, in small: the hub's data sets, the kit's TSVs, the authors' question files."""
    with serving() as hub:
        use(hub, monkeypatch)
        monkeypatch.setattr(downloading.tenacity, "wait_exponential", lambda **_: tenacity.wait_none())
        monkeypatch.setattr(downloading, "READ", 0.5)
        published = tmp_path / "published"
        for name in ("Video-MME", "MVBench", "MMBench-Video"):
            repository, branch = sources.source(name).hub or ("", "")
            files = folder_files(layouts.WRITERS[name](published))
            if name == "Video-MME":  # the writer leaves an empty folder in its place
                with zipfile.ZipFile(tmp_path / "subtitle.zip", "w") as archive:
                    archive.writestr("subtitle/vid0.srt", "1")
                files["subtitle.zip"] = (tmp_path / "subtitle.zip").read_bytes()
            hub.datasets[repository] = Repository(files, (branch,))
        for name, (module, cls) in CLASSES.items():
            content = layouts.WRITERS[name](published).read_bytes()
            hub.plain[f"/{name}.tsv"] = content
            found = getattr(kit(f"vlmeval.dataset.{module}"), cls)
            md5 = {**found.DATASET_MD5, name: hashlib.md5(content).hexdigest()}
            monkeypatch.setattr(found, "DATASET_MD5", md5)
            monkeypatch.setattr(found, "DATASET_URL", {**found.DATASET_URL, name: f"{hub.url}/{name}.tsv"})
        layouts.next_oe(published, added={"4000": {"0": "sit down", "2": "rest"}})
        layouts.next_qa(published)
        layouts.activitynet(published)
        for name in ("NExT-QA-MC", "NExT-QA-OE", "ActivityNet-QA"):
            known = sources.source(name)
            small = tuple(served(hub, file, published) for file in known.files)
            monkeypatch.setitem(sources.SOURCES, name, dataclasses.replace(known, files=small))
        yield hub


def served(hub: Hub, file: sources.File, published: Path) -> sources.File:
    content = (published / file.place).read_bytes()
    hub.plain[f"/{file.place}"] = content
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(file, url=f"{hub.url}/{file.place}", size=len(content), sha256=digest)
