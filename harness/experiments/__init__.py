"""Experiments: one YAML a table, read strictly.

Everything a user can get wrong in such a file is one sentence (`UserError`) that names the file, the key and what is
allowed, told before a model, a benchmark, torch or vlmeval is loaded.
"""

from __future__ import annotations

from harness.experiments.loader import experiment_names, load, names_with
from harness.experiments.schema import WUPS, Experiment, Judge, Row

__all__ = ["WUPS", "Experiment", "Judge", "Row", "experiment_names", "load", "names_with"]
