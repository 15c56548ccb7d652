"""Where the repository is and which files belong to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What running the project leaves behind, for a copy without version control.
LEFT_BEHIND = {
    ".git",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
}


def files() -> list[str]:
    """Paths of the project's files relative to its root: what git tracks, or all but leftovers without git."""
    if (ROOT / ".git").exists():
        command = ["git", "-c", "core.quotePath=off", "-c", "safe.directory=*", "ls-files"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        return [name for name in listed if (ROOT / name).is_file()]
    found = []
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT).as_posix()
        folders[:] = [f for f in folders if f not in LEFT_BEHIND and not f.endswith(".egg-info")]
        if here == "results":
            folders[:] = [f for f in folders if f not in ("runs", "data")]
        found += [(Path(here) / name).as_posix() for name in names]
    return sorted(found)


def texts(*suffixes: str) -> dict[str, str]:
    """Contents of the project's text files by path; only those with one of the suffixes where given."""
    found = {}
    for name in files():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:8192] and (not suffixes or name.endswith(suffixes)):
            found[name] = content.decode("utf-8")
    return found


def python(code: str) -> str:
    """Standard output of a fresh interpreter that runs `code` in the repository; fails the test when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=plain_environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain_environment() -> dict[str, str]:
    """The environment without what a surrounding make or pytest put there."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST_"))}
