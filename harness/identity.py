"""Fingerprints of what an answer depends on: code, checkpoints, data, package versions. Light: neither torch nor
vlmeval.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path

from harness import __version__
from harness.store import digest

PACKAGES = Path(__file__).parent.parent
LOOKUPS = ("model_wrappers", "model_wrappers.registry", "model_wrappers.methods", "model_wrappers.families")
"""Modules that only find others by name: following them would tie every method to every other one."""
COUNTS = ("model_wrappers.shape",)
"""Modules that count what an answer costs and have no part in giving it."""

MEDIA = (".mp4", ".mkv", ".webm", ".avi", ".zip")
LARGE = 16 << 20


def versions() -> dict[str, str]:
    """Versions of the packages that can change an answer, as installed. Nothing is imported for it."""
    names = ("torch", "torchvision", "transformers", "ms-vlmeval", "qwen-vl-utils", "decord", "torchcodec", "av")
    return {name: _version(name) for name in names}


def retain_version() -> str:
    """This package's own version, installed or run from its source."""
    return __version__


def origin() -> dict[str, str | None]:
    """Of this code: its version, and the commit where it is run from a repository of its own ("<hash>, and changes
    since" where files of it differ), else None.
    """
    return {"retain": retain_version(), "commit": _commit()}


def plugins() -> list[list[str]]:
    """The methods that other installed packages bring: name, where it lives, version."""
    found = importlib.metadata.entry_points(group="retain.methods")
    return sorted([entry.name, entry.value, entry.dist.version if entry.dist else ""] for entry in found)


def _commit() -> str | None:
    def git(*arguments: str) -> str | None:
        command = ["git", *arguments]
        try:
            done = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != PACKAGES.resolve():
        return None
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "harness", "model_wrappers")
    return f"{commit}, and changes since" if changed else commit


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_digest(folder: Path) -> str:
    """sha256 over the names and bytes of a checkpoint's files, those of its parts in folders (`llm/`) included.

    A compressor's folder and what begins with a dot do not count.
    """
    parts = {path: path.relative_to(folder).parts for path in _files(folder)}
    own = {path: part for path, part in parts.items() if not any(name.startswith(".") for name in part)}
    files = [path for path, part in own.items() if not part[0].startswith("compressor-") or len(part) == 1]
    return digest([[str(path.relative_to(folder)), file_digest(path)] for path in files])


def folder_stamp(folder: Path, leave_out: Iterable[str] = ()) -> str:
    """A quick stand-in for a digest of every byte under a folder, that still sees every edit.

    Media and large files count by name, size and modification time (nanoseconds), all others by content: opening a
    benchmark may write the same small files again. `leave_out` names folders that follow from the rest.
    """
    stamps = []
    for path in _files(folder, {str(folder / name) for name in leave_out}):
        stat = path.stat()
        by_time = path.suffix in MEDIA or stat.st_size > LARGE
        content = stat.st_mtime_ns if by_time else file_digest(path)
        stamps.append([str(path.relative_to(folder)), stat.st_size, content])
    return digest(stamps)


def _files(folder: Path, leave_out: Container[str] = ()) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__" and os.path.join(parent, name) not in leave_out]
        found += [Path(parent) / name for name in names if not name.endswith((".lock", ".pyc"))]
    return sorted(path for path in found if path.is_file())


def code_stamp(*folders: Path) -> str:
    """sha256 over the text of all Python files under the folders: any edit changes it."""
    files = [(folder, path) for folder in folders for path in _files(folder) if path.suffix == ".py"]
    return digest([[folder.name, str(path.relative_to(folder)), file_digest(path)] for folder, path in files])


def code_digest(modules: Iterable[str], follow: str = "model_wrappers") -> str:
    """sha256 over what the modules, and every module of the package `follow` that they import in turn, mean.

    Comments, docstrings and layout do not count, so an answer stays valid when only they change; any other edit makes
    new cells.
    """
    todo, seen = list(modules), dict[str, str]()
    while todo:
        name = todo.pop()
        if name in seen or name in (*LOOKUPS, *COUNTS):
            continue
        path = _source(name)
        if path is None:
            continue
        seen[name] = _meaning(path)
        todo += [imported for imported in _imports(name, path) if imported.split(".")[0] == follow]
    return digest(seen)


@cache
def _source(module: str) -> Path | None:
    """The module's file without importing it (its parents are); None where `module` is not a Python module."""
    top, *rest = module.split(".")
    for candidate in (PACKAGES.joinpath(top, *rest).with_suffix(".py"), PACKAGES.joinpath(top, *rest, "__init__.py")):
        if candidate.is_file():
            return candidate
    if top in ("harness", "model_wrappers"):
        return None
    found = importlib.util.find_spec(module)
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


@cache
def _meaning(path: Path) -> str:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [child for child in node.body if not _is_text(child)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """What a module imports, and what it imports from there, which may be modules too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)
