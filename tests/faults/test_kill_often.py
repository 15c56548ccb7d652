"""The short form of `python -m tests.faults.kill`."""

from __future__ import annotations

import subprocess
import sys


def test_a_run_that_is_killed_now_and_again_makes_the_same_table() -> None:
    command = [sys.executable, "-m", "tests.faults.kill", "--times", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("8 kills ("), done.stdout + done.stderr
