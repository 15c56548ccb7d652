"""A worker on another machine answers only where it would answer as the driver's machine does."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import plan as plans
from harness.experiments import Experiment
from harness.plan import Data, Plan
from harness.store import Store
from harness.sweep.remote import Worker
from model_wrappers.errors import UserError

Make = Callable[..., Experiment]


@pytest.fixture
def plan(experiment: Make, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    chosen = experiment(rows=[{"method": "vanilla"}], benchmarks=("MVBench",))
    return plans.make(chosen, Data(chosen, videos), Store(tmp_path / "runs"))


def worker(plan: Plan, data: Path) -> Worker:
    return Worker(plan, data, None, "/nowhere", "another node", 1)


def test_the_same_plan_is_made_there(plan: Plan, videos: Path, tmp_path: Path) -> None:
    assert worker(plan, videos)._compare().folder == videos
    (made,) = tmp_path.glob("retain-*/plans/*.json")
    before = made.stat().st_mtime_ns
    worker(plan, videos)._compare()
    assert made.stat().st_mtime_ns == before, "the next worker of the node finds it"


def test_other_versions_are_named(plan: Plan, videos: Path) -> None:
    (cell,) = plan.cells
    settings = copy.deepcopy(cell.settings)
    here, settings["versions"]["torch"] = settings["versions"]["torch"], "1.0"
    other = dataclasses.replace(plan, cells=[dataclasses.replace(cell, settings=settings)])
    with pytest.raises(UserError, match=rf"versions: torch is {here[:5]}.* there and 1\.0 here$"):
        worker(other, videos)._compare()


def test_other_samples_are_noticed(plan: Plan, videos: Path) -> None:
    with pytest.raises(UserError, match=r"samples: MVBench is \[0, 1, 2, 3\] there and \[0, 1\] here$"):
        worker(dataclasses.replace(plan, samples={"MVBench": [0, 1]}), videos)._compare()


def test_real_data_must_be_there(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each node needs the data at the same path"):
        worker(plan, tmp_path / "absent")._compare()


def test_pictures_of_the_drivers_node_are_the_drivers(
    plan: Plan, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "_abroad", lambda self: None)
    given = Worker(plan, videos, tmp_path / "runs" / "pictures", "/nowhere", "this node", torch.get_num_threads())
    assert given._prepare().pictures == tmp_path / "runs" / "pictures"


def test_pictures_of_another_node_are_removed_when_all_its_workers_have_ended(plan: Plan, videos: Path) -> None:
    first = worker(plan, videos)
    folder = first._compare().pictures
    assert folder is not None and folder.is_relative_to(tempfile.gettempdir())
    folder.mkdir(exist_ok=True)
    (folder / "frame.jpg").touch()
    second = worker(plan, videos)
    assert second._compare().pictures == folder and (folder / "frame.jpg").exists(), "the first may show it"
    del first, second  # the kernel lets the locks of a killed process go as well
    third = worker(plan, videos)
    assert third._compare().pictures == folder and not (folder / "frame.jpg").exists()
