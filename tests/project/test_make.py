"""The Makefile: targets that are promised exist, and a machine that lacks something is told so in one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.project.repository import ROOT, plain_environment


def _make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=plain_environment())


def _targets() -> set[str]:
    rules = re.findall(r"^([a-z0-9 ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {target for targets in rules for target in targets.split()}


def test_make_alone_helps_and_names_every_target() -> None:
    done = _make()
    assert done.returncode == 0
    assert set(re.findall(r"^make (\w+)", done.stdout, re.MULTILINE)) == _targets() - {"help"}
    assert done.stdout == _make("help").stdout


@pytest.mark.parametrize("document", ["README.md", "AGENTS.md", ".ci/run"])
def test_documents_name_only_targets_that_exist(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    said = re.findall(r"(?:^|`|\$ |&& )make ((?:[a-z0-9]+ ?)+)", text, re.MULTILINE)
    named = {target for words in said for target in words.split()}
    assert named, f"{document} names no target"
    assert named <= _targets()


TABLES = [f"table{number}" for number in range(1, 9)]
FIGURE = ["run figure3 --profile micro", "figure figure3 --profile micro"]


@pytest.fixture
def answering(copy: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]:
    """Runs make where `retain` ends with the status that is said for a table or a command (else 0), the first that is;
    its calls are returned, too.
    """

    def run(*arguments: str, **statuses: int) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        log, command = copy / "log", copy / ".venv/bin/retain"
        command.parent.mkdir(parents=True, exist_ok=True)
        cases = "".join(f"{table}) exit {status};; " for table, status in statuses.items())
        shown = '[ "$1" != doctor ] || echo "$2 was looked at"'
        command.write_text(
            f'#!/bin/sh\necho "$@" >> {log}\n{shown}\nfor word in "$1" "$2"; do case "$word" in {cases}esac; done\n'
        )
        command.chmod(0o755)
        (copy / ".venv/.installed").touch()
        log.write_text("")
        return _make(*arguments, folder=copy), log.read_text().splitlines()

    return run


@pytest.mark.parametrize("table", TABLES)
def test_each_table_is_run_from_its_experiment(answering: Any, table: str) -> None:
    done, calls = answering(table)
    assert (done.returncode, calls) == (0, [f"run {table} --profile micro"])
    done, calls = answering(table, "PROFILE=paper", "DATA=/some where", **{table: 2})
    assert done.returncode != 0 and calls == [f"doctor {table} --profile paper --data /some where --before-data"]
    done, calls = answering(table, "PROFILE=paper", "JUDGE_LIMIT=5")
    before = [f"doctor {table} --profile paper --before-data", f"data {table} --profile paper"]
    assert (done.returncode, calls) == (0, [*before, f"run {table} --profile paper --judge-limit 5"])
    done, calls = answering(table, "PROFILE=paper", "RAY=head:6379", "JUDGE_LIMIT=5")
    before[0] = f"doctor {table} --profile paper --ray head:6379 --before-data"
    asked = f"run {table} --profile paper --ray head:6379 --judge-limit 5"
    assert (done.returncode, calls) == (0, [*before, asked])


def test_all_tables_are_run_one_after_another(answering: Any) -> None:
    done, calls = answering("tables")
    assert (done.returncode, calls) == (0, [*(f"run {table} --profile micro" for table in TABLES), *FIGURE])
    done, calls = answering("tables", "PROFILE=paper")
    assert done.returncode == 0 and calls[:3] == [
        f"doctor {' '.join(TABLES)} figure3 --profile paper --before-data",
        f"data {' '.join(TABLES)} figure3 --profile paper",
        "run table1 --profile paper",
    ]
    done, calls = answering("tables", "JUDGE_LIMIT=0.5")
    asked = [f"run {name} --profile micro --judge-limit 0.5" for name in (*TABLES, "figure3")]
    assert (done.returncode, calls) == (0, [*asked, FIGURE[1]])
    done, calls = answering("tables", "RAY=auto")
    asked = [f"run {name} --profile micro --ray auto" for name in (*TABLES, "figure3")]
    assert (done.returncode, calls) == (0, [*asked, FIGURE[1]])


def test_nothing_is_downloaded_where_something_else_is_missing(answering: Any) -> None:
    """By the doctor's status: of what `retain data` gets it fails for nothing."""
    done, calls = answering("table3", "PROFILE=paper", doctor=1)
    assert done.returncode != 0 and "Error 1" in done.stderr
    assert calls == ["doctor table3 --profile paper --before-data"] and done.stdout == "table3 was looked at\n"
    done, calls = answering("table3", "PROFILE=paper", data=2)
    assert (
        done.returncode != 0 and "Error 2" in done.stderr and [call.split()[0] for call in calls] == ["doctor", "data"]
    )


def test_the_figure_is_drawn_from_its_experiment(answering: Any) -> None:
    done, calls = answering("figure3", "DATA=/some where")
    assert (done.returncode, calls) == (0, [f"{call} --data /some where" for call in FIGURE])
    done, calls = answering("figure3", figure3=3)
    assert done.returncode != 0 and "Error 3" in done.stderr and calls == FIGURE
    done, calls = answering("figure3", figure3=2)
    assert done.returncode != 0 and "Error 2" in done.stderr and calls == FIGURE[:1]
    done, calls = answering("figure3", "PROFILE=paper", figure3=2)
    assert done.returncode != 0 and "Error 2" in done.stderr and [call.split()[0] for call in calls] == ["doctor"]


def test_failed_samples_are_told_at_the_end_of_all_tables(answering: Any) -> None:
    done, calls = answering("tables", table2=3)
    assert len(calls) == 8 + 2 and done.returncode != 0 and "Error 3" in done.stderr


@pytest.mark.parametrize("status", [1, 2, 130])
def test_a_mistake_or_a_stop_ends_all_tables(answering: Any, status: int) -> None:
    done, calls = answering("tables", table1=3, table2=status)
    assert len(calls) == 2 and done.returncode != 0 and f"Error {status}" in done.stderr


def _fake_python(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads."""
    folder = tmp_path / "copy"
    (folder / ".ci").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", ".ci/lock.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def _said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    return lines[0]


def test_an_old_python_is_refused(copy: Path, tmp_path: Path) -> None:
    old = _fake_python(tmp_path, 'case "$1" in -V) echo "Python 3.9.2";; *) exit 1;; esac')
    said = _said(_make("test", f"PYTHON={old}", folder=copy))
    assert "is Python 3.9.2" in said and "needs Python 3.11" in said and "make PYTHON=" in said
    assert not (copy / ".venv").exists()


def test_a_missing_python_is_told(copy: Path) -> None:
    assert "no command 'no-such-python'" in _said(_make("setup", "PYTHON=no-such-python", folder=copy))


def test_a_python_without_venv_is_told(copy: Path, tmp_path: Path) -> None:
    bare = _fake_python(tmp_path, 'case "$2" in *ensurepip*) exit 1;; esac')
    assert "python3-venv" in _said(_make("setup", f"PYTHON={bare}", folder=copy))


def test_setup_installs_the_lock_and_then_this_once(copy: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake = f'echo "$@" >> {log}; case "$2" in venv) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac'
    python = _fake_python(tmp_path, fake)
    assert _make("setup", f"PYTHON={python}", folder=copy).returncode == 0
    calls = log.read_text()
    assert calls.index("-m venv .venv") < calls.index("install --no-deps -r .ci/lock.txt") < calls.index("-e .")
    log.unlink()
    assert _make("setup", f"PYTHON={python}", folder=copy).returncode == 0
    assert not log.exists()
    newer = (copy / ".venv/.installed").stat().st_mtime + 5
    os.utime(copy / ".ci/lock.txt", (newer, newer))
    assert _make("setup", f"PYTHON={python}", folder=copy).returncode == 0
    assert "install --no-deps -r .ci/lock.txt" in log.read_text()


def test_a_failed_install_is_tried_again(copy: Path, tmp_path: Path) -> None:
    python = _fake_python(
        tmp_path, 'case "$2" in venv) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; pip) exit 1;; esac'
    )
    for _ in range(2):
        assert _make("setup", f"PYTHON={python}", folder=copy).returncode != 0
        assert not (copy / ".venv/.installed").exists()


def test_ci_runs_check_and_test() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text and text.rstrip().endswith("make check test")
    assert subprocess.run(["bash", "-n", script]).returncode == 0
