"""The recipe of AGENTS.md for a method of one's own, carried out: a file, an entry point, a row, `retain run`."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from harness.micro import editions, image_editions
from tests.project.repository import ROOT, plain_environment

METHOD = '''
from dataclasses import dataclass
from model_wrappers.methods.base import Scorer

@dataclass(frozen=True)
class Centre(Scorer):
    """The tokens in the middle of their image first."""
    name = "centre"
    def score(self, model, prompt):
        return -(prompt.extents[:, 2:4].mean(1) - 0.5).abs().nan_to_num(1.0)
'''
ENTRY_POINT = "[retain.methods]\ncentre = centre:Centre\n"
EXPERIMENT = {
    "name": "mine",
    "title": "A method of my own, micro",
    "benchmarks": "MMStar",
    "profiles": {
        "micro": {
            "models": "micro-qwen2-vl",
            "data": "micro",
            "frames": 8,
            "rows": [{"method": "vanilla"}, {"method": "centre", "keep": 0.25}],
        }
    },
}


def recipe() -> str:
    return (ROOT / "AGENTS.md").read_text("utf-8").split("## Recipe")[1].split("\n## ")[0]


def told_command() -> str:
    """The one command that the recipe gives for an experiment file of one's own."""
    (found,) = re.findall(r"`(retain run [^`]*)`", recipe())
    return found


def test_a_ten_line_method_in_a_package_of_its_own_gets_its_row(tmp_path: Path) -> None:
    assert len(METHOD.strip().splitlines()) <= 10
    package, info = tmp_path / "package", tmp_path / "package" / "centre-1.0.dist-info"
    info.mkdir(parents=True)  # as `pip install` leaves it
    (package / "centre.py").write_text(METHOD)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: centre\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    data = tmp_path / "results" / "data" / f"micro-{editions.digest()}"  # where a run looks first: no others are drawn
    image_editions.write("MMStar", data, image_editions.draw("MMStar"))
    (data / "manifest.json").write_text("{}")
    command, *words = shlex.split(told_command())
    assert command == "retain" and words.count("FILE.yaml") == 1
    words[words.index("FILE.yaml")] = "mine.yaml"
    environment = {**plain_environment(), "PYTHONPATH": os.pathsep.join(map(str, (package, ROOT)))}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "| centre " in done.stdout
    store = tmp_path / "results" / "runs"
    rows = list(csv.DictReader((store / "tables" / "mine.csv").open()))
    assert [(row["method"], row["retention"]) for row in rows] == [("vanilla", "1"), ("centre", "0.25")]
    assert 0.2 < float(rows[1]["realised"]) < 0.3 and rows[1]["MMStar"] != ""
    (cell,) = (store / "cells").glob("*centre*")
    assert len((cell / "predictions.jsonl").read_text().splitlines()) == 3


def test_the_recipe_names_what_the_test_does() -> None:
    for part in ("retain.methods", "tests/project/test_recipe.py", "tests/model_wrappers/table.py"):
        assert part in recipe()
