"""The training set on disk: whole or not there, gone on with under the same settings only."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.compressor.dataset import TrainingSet
from harness.disk import StoreError
from model_wrappers.errors import UserError

MANIFEST: dict[str, Any] = {
    "model": {"name": "m", "settings": {"nframe": 8}},
    "media": "video",
    "relevance": {"target": "logit", "clamp": True, "head_weights": "grad"},
    "judge": "exact",
    "sources": [{"name": "own"}],
}


def record(name: str, tokens: int = 4) -> dict[str, Any]:
    return {
        "id": name,
        "source": "own",
        "group": f"{name}.mp4",
        "media": "video",
        "n_visual": tokens,
        "grids": [(1, 2, tokens // 2)],
        "question": "What?",
        "answer": "red",
        "response": "red",
    }


def test_what_is_added_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    attention, relevance = torch.rand(4), torch.rand(4, dtype=torch.float64)
    with TrainingSet.create(folder, MANIFEST) as made:
        made.add(record("b"), attention, relevance)
        made.drop(record("a"), "wrong answer")
        made.drop({**record("c"), "n_visual": None, "grids": None, "response": None}, "failed: no video")
        made.drop(record("d"), "failed: another video")
    found = TrainingSet.open(folder)
    assert found.manifest == {"version": 1, **MANIFEST}
    (pair,) = found.pairs()
    assert (pair.id, pair.group, pair.source, pair.grids) == ("b", "b.mp4", "own", [(1, 2, 2)])
    assert pair.attention.dtype == pair.relevance.dtype == torch.float32
    assert torch.equal(pair.attention, attention) and torch.equal(pair.relevance, relevance.float())
    assert found.counts() == {"asked": 4, "kept": 1, "failed": 2, "wrong answer": 1}
    assert found.seen() == {"a", "b"}  # what failed is asked again
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert list(lines[0]) == [*record("b"), "kept", "reason", "file"]
    assert [line["reason"] for line in lines] == [None, "wrong answer", "failed: no video", "failed: another video"]


def test_the_last_line_of_a_sample_counts(tmp_path: Path) -> None:
    with TrainingSet.create(tmp_path / "set", MANIFEST) as made:
        made.drop(record("a"), "failed: disk asleep")
        made.add(record("a"), torch.ones(4), torch.ones(4))
    assert TrainingSet.open(tmp_path / "set").counts() == {"asked": 1, "kept": 1}


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_line_is_dropped(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    with TrainingSet.create(tmp_path, MANIFEST) as made:
        made.add(record("a"), torch.ones(4), torch.ones(4))
        made.add(record("b"), torch.ones(4), torch.ones(4))
    file = tmp_path / "samples.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert len(TrainingSet.open(tmp_path)) == 1
    with caplog.at_level(logging.WARNING), TrainingSet.create(tmp_path, MANIFEST) as again:
        assert "torn line" in caplog.text and again.seen() == {"a"}
        again.add(record("b"), torch.zeros(4), torch.ones(4))
    assert [pair.id for pair in TrainingSet.open(tmp_path).pairs()] == ["a", "b"]


def test_what_is_killed_between_tensors_and_line_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with TrainingSet.create(tmp_path, MANIFEST) as made:
        monkeypatch.setattr(made, "_append", killed)
        with pytest.raises(KeyboardInterrupt):
            made.add(record("a"), torch.ones(4), torch.ones(4))
    assert list((tmp_path / "tensors").iterdir())  # written before the line
    with TrainingSet.create(tmp_path, MANIFEST) as again:
        assert again.seen() == set()
        again.add(record("a"), torch.zeros(4), torch.ones(4))
    assert float(TrainingSet.open(tmp_path).pairs()[0].attention.sum()) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relevance": {**MANIFEST["relevance"], "target": "margin"}}, "relevance.target was 'logit' and is 'margin'"),
        ({"model": {"name": "other", "settings": {"nframe": 8}}}, "model.name was 'm' and is 'other'"),
        ({"model": {"name": "m", "settings": {}}}, "model.settings.nframe was 8 and is None"),
        ({"media": "image"}, "media was 'video' and is 'image'"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    TrainingSet.create(tmp_path, MANIFEST).close()
    with pytest.raises(UserError) as error:
        TrainingSet.create(tmp_path, {**MANIFEST, **changes})
    assert said in str(error.value) and "--out" in str(error.value)


def test_what_it_is_drawn_from_may_change(tmp_path: Path) -> None:
    TrainingSet.create(tmp_path, MANIFEST).close()
    TrainingSet.create(tmp_path, {**MANIFEST, "sources": [{"name": "more"}]}).close()
    assert TrainingSet.open(tmp_path).manifest["sources"] == [{"name": "more"}]


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder .*retain compressor collect"):
        TrainingSet.open(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no training set: it has no dataset.json"):
        TrainingSet.open(tmp_path)
    with pytest.raises(UserError, match="is not empty and has no dataset.json"):
        TrainingSet.create(tmp_path, MANIFEST)
    (tmp_path / "dataset.json").write_text('{"version": 99}')
    with pytest.raises(UserError, match="version 99; this retain reads version 1"):
        TrainingSet.open(tmp_path)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read as the description of a training set"):
        TrainingSet.open(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"id": "a", "kept": 1, "reason": null, "file": "x"}',
        '{"id": "a", "kept": true, "reason": "wrong answer", "file": null}',
    ],
)
def test_foreign_lines_are_refused(tmp_path: Path, line: str) -> None:
    TrainingSet.create(tmp_path, MANIFEST).close()
    (tmp_path / "samples.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"line 1 of .*samples\.jsonl is not a sample"):
        TrainingSet.open(tmp_path)


def test_damaged_tensors_are_named(tmp_path: Path) -> None:
    with TrainingSet.create(tmp_path, MANIFEST) as made:
        made.add(record("a"), torch.ones(4), torch.ones(4))
    (path,) = (tmp_path / "tensors").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="the tensors of sample a, cannot be read"):
        TrainingSet.open(tmp_path).pairs()


def test_only_whole_tensors_are_taken(tmp_path: Path) -> None:
    with TrainingSet.create(tmp_path, MANIFEST) as made:
        for wrong in (torch.ones(3), torch.ones(4, 1), torch.tensor([1.0, 2.0, float("nan"), 0.0])):
            with pytest.raises(ValueError, match="4 finite numbers"):
                made.add(record("a"), torch.ones(4), wrong)
        assert made.counts() == {"asked": 0, "kept": 0}


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with TrainingSet.create(tmp_path, MANIFEST):
        with pytest.raises(StoreError, match="another run is collecting into"):
            TrainingSet.create(tmp_path, MANIFEST)
    TrainingSet.create(tmp_path, MANIFEST).close()
    with pytest.raises(ValueError, match="opened for reading"):
        TrainingSet.open(tmp_path).drop(record("a"), "wrong answer")
