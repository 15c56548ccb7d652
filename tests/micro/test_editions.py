"""The micro editions: made the same everywhere, from held-out scenes only, with the evidence where the pixels are."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from decord import VideoReader
from PIL import Image

from harness.data.state import missing
from harness.micro import editions, image_editions
from harness.micro.prompts import VIDEO_FORMATS
from harness.micro.questions import TEMPORAL
from harness.micro.scenes import CELL, COLORS, FRAMES_PER_SEGMENT, HELD_OUT


def test_made_once_and_the_same_again(data: Path, tmp_path: Path) -> None:
    before = (data / "manifest.json").stat().st_mtime_ns
    assert editions.ensure(data.parent) == data
    assert (data / "manifest.json").stat().st_mtime_ns == before
    editions.write(tmp_path)
    for name in (
        "manifest.json",
        "LMUData/MMVet.tsv",
        "NExT-QA/test.csv",
        "ActivityNet-QA/test_q.json",
        "evidence/MVBench.json",
    ):
        assert (tmp_path / name).read_bytes() == (data / name).read_bytes()
    assert not list(data.parent.glob(".micro-*"))


def test_every_edition_has_a_hundred_questions_many_about_time_none_of_a_training_scene(data: Path) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    assert set(manifest) == {*VIDEO_FORMATS, *image_editions.FORMATS}
    assert missing(manifest, data) == []
    for name, entry in manifest.items():
        assert entry["questions"] >= 100
        assert entry["temporal"] == sum(topic in TEMPORAL for topic in entry["topics"])
        assert entry["temporal"] >= 40 or name in image_editions.FORMATS
        assert all(int(digest[:8], 16) % HELD_OUT == 0 for digest in entry["scenes"].values())


def test_a_training_scene_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.micro.scenes import sample_scene

    item = editions.draw("MVBench")[0]
    trained = sample_scene(np.random.default_rng(0), video=True, held_out=False)
    leaked = editions.Item(item.medium, trained, item.question, item.text, item.options)
    monkeypatch.setattr(editions, "draw", lambda name: [leaked])
    with pytest.raises(RuntimeError, match="training split"):
        editions.write(tmp_path)


def test_the_frames_that_are_sampled_show_the_evidence_in_its_cells(data: Path) -> None:
    evidence = json.loads((data / "evidence" / "ActivityNet-QA.json").read_text())
    videos = data / "ActivityNet-QA" / "all_test"
    for index, item in list(enumerate(editions.draw("ActivityNet-QA")))[::10]:
        reader = VideoReader(str(videos / f"v_{item.medium}.mp4"))
        assert len(reader) == 4 * FRAMES_PER_SEGMENT
        frames = reader.get_batch(np.linspace(0, len(reader) - 1, 8).round().astype(int).tolist()).asnumpy()
        colors = {(s.segment, s.row, s.col): COLORS[s.color] for s in item.question.evidence}
        assert evidence[str(index)] == {"grid": [4, 6, 6], "cells": sorted(map(list, colors))}
        for (segment, row, col), ink in colors.items():
            for frame in frames[2 * segment : 2 * segment + 2]:
                cell = frame[row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL].astype(int)
                assert abs(cell - np.asarray(ink)).sum(axis=-1).min() < 60


@pytest.mark.parametrize("name", list(image_editions.FORMATS))
def test_images_show_the_evidence_in_its_cells_and_every_category_that_the_metric_needs(name: str, data: Path) -> None:
    table = pd.read_csv(data / "LMUData" / f"{name}.tsv", sep="\t", dtype=str, keep_default_na=False)
    evidence = json.loads((data / "evidence" / f"{name}.json").read_text())
    items = image_editions.draw(name)
    assert list(table["index"]) == list(evidence)
    for item, row, entry in list(zip(items, table.to_dict("records"), evidence.values(), strict=True))[::10]:
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["image"]))).convert("RGB")).astype(int)
        assert picture.shape == (672, 672, 3)
        [(_, r, c)] = entry["cells"]
        cell = picture[56 * r : 56 * r + 56, 56 * c : 56 * c + 56]
        assert abs(cell - np.asarray(COLORS[item.question.evidence[0].color])).sum(axis=-1).min() < 60
    labels = {label for value in table["category"] for label in value.split(",")}
    if name == "MMVet":
        assert labels == {"rec", "ocr", "know", "gen", "spat", "math"}
    if name == "MME":
        assert {"color", "code_reasoning"} <= labels
        assert all(set(pair["answer"]) == {"Yes", "No"} for _, pair in table.groupby("image_path"))


def test_the_source_names_the_folder(data: Path) -> None:
    assert data.name == f"micro-{editions.digest()}" and len(editions.digest()) == 12
