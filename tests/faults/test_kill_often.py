"""The short form of `python -m tests.faults.kill`."""

from __future__ import annotations

import re

import pytest

from tests.faults import kill

pytestmark = pytest.mark.long


def test_a_run_that_is_killed_now_and_again_makes_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    status = kill.main(["--times", "5"])
    said = capsys.readouterr().out
    told = re.match(r"(\d+) kills \(", said)
    assert status == 0 and told, said
    assert int(told[1]) >= 5, "the last table is killed at, too, until it is whole"
