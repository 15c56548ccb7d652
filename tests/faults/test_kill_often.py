"""The short form of `python -m tests.faults.kill`."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long


def test_a_run_that_is_killed_now_and_again_makes_the_same_table() -> None:
    command = [sys.executable, "-m", "tests.faults.kill", "--times", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    told = re.match(r"(\d+) kills \(", done.stdout)
    assert done.returncode == 0 and told, done.stdout + done.stderr
    assert int(told[1]) >= 5, "the last table is killed at, too, until it is whole"
