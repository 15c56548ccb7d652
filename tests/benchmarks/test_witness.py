"""Question files that are cut at the end of a row read like whole ones; their digests tell."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from harness.benchmarks import benchmark
from harness.benchmarks.witness import unlike
from harness.data.sources import SOURCES
from harness.data.state import missing, state
from harness.doctor import data as doctor
from harness.experiments import load
from harness.opening import unpublished
from harness.plan import Plan
from harness.vlmevalkit import kit
from model_wrappers.errors import UserError
from tests.benchmarks import layouts
from tests.conftest import Said
from tests.sweep.conftest import checkpoint, write_experiment

__all__ = ["checkpoint"]
FILES = {
    "NExT-QA-MC": ("NExT-QA/test.csv", layouts.next_qa),
    "ActivityNet-QA": ("ActivityNet-QA/test_q.json", layouts.activitynet),
    "MMStar": ("LMUData/MMStar.tsv", layouts.mmstar),
    "MMBench-Video": ("MMBench-Video.tsv", layouts.mmbench_video),
    "MVBench": ("MVBench_MP4.tsv", layouts.mvbench),
}


def laid_out(name: str, data: Path) -> Path:
    """A benchmark in a folder; the file of its questions."""
    place, write = FILES[name]
    folder = write(data)
    path = folder / place if SOURCES[name].hub else data / place
    if not path.exists():
        path.write_text("index\tvideo\n0\ta.mp4\n1\tb.mp4\n")  # as VLMEvalKit makes it when it opens the questions
    return path


def publish(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes what lies in a folder what is published."""
    known = SOURCES[name]
    files = tuple(
        dataclasses.replace(file, sha256=hashlib.sha256((data / file.place).read_bytes()).hexdigest())
        for file in known.files
        if (data / file.place).is_file()
    )
    monkeypatch.setitem(SOURCES, name, dataclasses.replace(known, files=files))
    if not known.files:
        entry = benchmark(name)
        cls = getattr(kit(entry.module), entry.class_name)
        place = FILES[name][0]
        path = data / place if known.tsv else next(data.rglob(place))
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        if known.tsv:
            monkeypatch.setattr(cls, "DATASET_MD5", {**cls.DATASET_MD5, name: md5})
        else:
            monkeypatch.setattr(cls, "MP4_MD5" if hasattr(cls, "MP4_MD5") else "MD5", md5)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_its_last_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = laid_out(name, tmp_path)
    assert len(unlike(name, tmp_path)) >= 1, "what is laid out is not published"
    publish(name, tmp_path, monkeypatch)
    assert unlike(name, tmp_path) == []
    shorten(path)
    assert state(name, tmp_path).lacks == (), "nothing else tells"
    (said,) = unlike(name, tmp_path)
    assert said.startswith(f"{path} has not the ") and said.endswith("it is cut short or of another version")
    table = "table2" if name == "MMStar" else "table3"
    chosen = load(table, "paper").model_copy(update={"benchmarks": [name]})
    (check,), _ = doctor.checks([chosen], tmp_path)
    assert check.state == ("warning" if SOURCES[name].hub else "missing") and said in check.said
    assert unpublished(chosen, tmp_path) == [f"{name}: {said}"]


def shorten(path: Path) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    else:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def test_a_run_says_so(said: Said, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, place = write_experiment(tmp_path, checkpoint, benchmarks=("NExT-QA-MC",)), laid_out("NExT-QA-MC", tmp_path)
    monkeypatch.setattr("harness.cli.unpublished", unpublished)

    def stop(_: Plan) -> list[str]:
        raise UserError("far enough")

    monkeypatch.setattr(Plan, "left_out", stop)
    status, _, err = said("run", path, "--profile", "paper", "--data", tmp_path, "--store", tmp_path / "runs")
    assert status == 2 and err.endswith("retain: far enough\n")
    assert f"retain: NExT-QA-MC: {place} has not the sha256 that its authors' file has: it is cut short" in err


def test_generated_questions_are_no_published_ones(tmp_path: Path) -> None:
    laid_out("MMBench-Video", tmp_path)
    chosen = load("table3").model_copy(update={"benchmarks": ["MMBench-Video"]})
    assert unpublished(chosen, tmp_path) == []
    assert unlike("Mine", tmp_path) == [] and unlike("MVBench", tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", [{"questions": []}, [["a"]], [{"question": "a"}], "a", 5])
def test_activitynet_questions_of_another_shape(content: object, tmp_path: Path) -> None:
    layouts.activitynet(tmp_path)
    path = tmp_path / "ActivityNet-QA" / "test_q.json"
    path.write_text(json.dumps(content))
    chosen = load("table3", "paper").model_copy(update={"benchmarks": ["ActivityNet-QA"]})
    (check,), _ = doctor.checks([chosen], tmp_path)
    assert check.state == "missing" and check.said.startswith(f"{path} must be a list of entries")
    with pytest.raises(UserError, match="must be a list of entries"):  # what a run asks first
        missing(["ActivityNet-QA"], tmp_path)
