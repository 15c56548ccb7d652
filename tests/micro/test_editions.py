"""The micro editions: made the same everywhere, from held-out scenes only, with the evidence where the pixels are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from decord import VideoReader

from harness.micro import editions
from harness.micro.prompts import VIDEO_FORMATS
from harness.micro.questions import TEMPORAL
from harness.micro.scenes import CELL, COLORS, FRAMES_PER_SEGMENT, HELD_OUT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return editions.ensure(tmp_path_factory.mktemp("data"))


def test_made_once_and_the_same_again(data: Path, tmp_path: Path) -> None:
    before = (data / "manifest.json").stat().st_mtime_ns
    assert editions.ensure(data.parent) == data
    assert (data / "manifest.json").stat().st_mtime_ns == before
    editions.write(tmp_path)
    for name in ("manifest.json", "NExT-QA/test.csv", "ActivityNet-QA/test_q.json", "evidence/MVBench.json"):
        assert (tmp_path / name).read_bytes() == (data / name).read_bytes()
    assert not list(data.parent.glob(".micro-*"))


def test_every_edition_has_a_hundred_questions_many_about_time_none_of_a_training_scene(data: Path) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    assert set(manifest) == set(VIDEO_FORMATS)
    for entry in manifest.values():
        assert entry["questions"] >= 100
        assert entry["temporal"] >= 40 and entry["temporal"] == sum(topic in TEMPORAL for topic in entry["topics"])
        assert all(int(digest[:8], 16) % HELD_OUT == 0 for digest in entry["scenes"].values())


def test_a_training_scene_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.micro.scenes import sample_scene

    item = editions.draw("MVBench")[0]
    trained = sample_scene(np.random.default_rng(0), video=True, held_out=False)
    leaked = editions.Item(item.video, trained, item.question, item.text, item.options)
    monkeypatch.setattr(editions, "draw", lambda name: [leaked])
    with pytest.raises(RuntimeError, match="training split"):
        editions.write(tmp_path)


def test_the_frames_that_are_sampled_show_the_evidence_in_its_cells(data: Path) -> None:
    evidence = json.loads((data / "evidence" / "ActivityNet-QA.json").read_text())
    videos = data / "ActivityNet-QA" / "all_test"
    for index, item in list(enumerate(editions.draw("ActivityNet-QA")))[::10]:
        reader = VideoReader(str(videos / f"v_{item.video}.mp4"))
        assert len(reader) == 4 * FRAMES_PER_SEGMENT
        frames = reader.get_batch(np.linspace(0, len(reader) - 1, 8).round().astype(int).tolist()).asnumpy()
        colors = {(s.segment, s.row, s.col): COLORS[s.color] for s in item.question.evidence}
        assert sorted(map(list, colors)) == evidence[str(index)]
        for (segment, row, col), ink in colors.items():
            for frame in frames[2 * segment : 2 * segment + 2]:
                cell = frame[row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL].astype(int)
                assert abs(cell - np.asarray(ink)).sum(axis=-1).min() < 60


def test_the_source_names_the_folder(data: Path) -> None:
    assert data.name == f"micro-{editions.digest()}" and len(editions.digest()) == 12
