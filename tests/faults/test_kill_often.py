"""The short form of `python -m tests.faults.kill`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import kill

pytestmark = pytest.mark.long


def test_a_run_that_is_killed_now_and_again_makes_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = kill.main(["--times", "5", "--out", str(tmp_path / "kills.json")])
    assert status == 0, capsys.readouterr().out
    told = json.loads((tmp_path / "kills.json").read_text())
    assert told["kills"] >= 5, "the last table is killed at, too, until it is whole"
    assert told["kills"] == sum(told["by_phase"].values()) == sum(told["by_victim"].values())
