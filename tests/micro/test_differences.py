"""What the faults of VLMEvalKit's class cost: the committed measurement, and how the stock class is run for it."""

from __future__ import annotations

import json
from pathlib import Path

from harness.micro import differences

MEASURED = Path(__file__).parents[2] / "results" / "micro" / "differences.json"


def test_without_its_two_faults_the_stock_class_answers_as_ours() -> None:
    found = json.loads(MEASURED.read_text())
    for name, ours in found["accuracy_pct"]["ours"].items():  # one answer of a hundred may tip over a rounding
        assert abs(found["accuracy_pct"]["stock, both mended"][name] - ours) <= 1.0
        assert found["accuracy_pct"]["stock"][name] < ours - 10
    assert found["mean_pct"]["stock"] < found["mean_pct"]["ours"]
    assert found["command"] == differences.COMMAND


def test_the_readme_says_what_was_measured() -> None:
    found = json.loads(MEASURED.read_text())
    readme = (MEASURED.parents[2] / "README.md").read_text()
    assert differences.table(found) in readme
