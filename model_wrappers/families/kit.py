"""The one place that imports VLMEvalKit, with the import's side effects undone.

``import vlmeval`` (ms-vlmeval 0.0.20) turns TLS verification off and gradients off for the whole process, seeds every
random generator, installs a root log handler, silences warnings, sets and edits environment variables, puts a folder of
its own first on ``sys.path``, and makes ``~/LMUData``. A library that measures models cannot live with any of these, so
all of them are put back.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import ssl
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from model_wrappers.errors import UserError

_lock = threading.RLock()
_environment: dict[str, str] = {}
"""What the import would have left in ``os.environ``: parts of the kit read it back when they run."""
_search_path: list[str] = []
"""What the import would have left in ``sys.path``."""


def load_vlmeval() -> ModuleType:
    """Imports VLMEvalKit, submodules included, and leaves the process as it was; later calls return the same module.

    A process that had already imported ``vlmeval`` by itself is left as it is: what held before is no longer known.

    Returns:
        The package ``vlmeval``; ``vlmeval.vlm``, ``.dataset``, ``.config`` and ``.smp`` are loaded, ``.run`` is not.

    Raises:
        UserError: VLMEvalKit, or a module that it needs, is not installed.
    """
    with _lock:
        if "vlmeval" in sys.modules:
            return sys.modules["vlmeval"]
        with _confined():
            try:
                package = importlib.import_module("vlmeval")
                for name in ("vlm", "dataset", "config", "smp"):
                    importlib.import_module(f"vlmeval.{name}")
            except ImportError as error:
                for name in [name for name in sys.modules if name.partition(".")[0] == "vlmeval"]:
                    del sys.modules[name]  # half a package would be taken for a whole one by the next call
                sentence = f"VLMEvalKit cannot be imported ({error}); install ms-vlmeval and what it needs."
                raise UserError(sentence) from error
        return package


@contextmanager
def kit_process() -> Iterator[None]:
    """The process as VLMEvalKit wants it, for running its own command: its environment variables and gradients off.

    TLS verification stays on. Everything is put back at the end.
    """
    load_vlmeval()
    with ExitStack() as undo:
        undo.enter_context(_restored_environment())
        undo.enter_context(torch.no_grad())
        for name, value in _environment.items():
            os.environ.setdefault(name, value)
        sys.path[:0] = [entry for entry in _search_path if entry not in sys.path]
        yield


@contextmanager
def _confined() -> Iterator[None]:
    """Puts back, also after an exception, what the import of the kit changes."""
    with ExitStack() as undo:
        undo.enter_context(_restored_environment())
        undo.enter_context(_restored_randomness())
        undo.enter_context(_restored_logging())
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        undo.callback(setattr, ssl, "_create_default_https_context", ssl._create_default_https_context)
        undo.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="retain-import-"))
        if not os.path.exists(os.environ.get("LMUData", "")):
            os.environ["LMUData"] = folder  # else the import makes ~/LMUData
        variables, search_path = dict(os.environ), list(sys.path)
        yield
        _environment.update({name: value for name, value in os.environ.items() if variables.get(name) != value})
        _search_path.extend(entry for entry in sys.path if entry not in search_path)
        _point_at_home(folder)


def _point_at_home(folder: str) -> None:
    """Some dataset classes keep the data root in an attribute: it shall be what it would have been outside."""
    for value in vars(sys.modules["vlmeval.dataset"]).values():
        if isinstance(value, type) and vars(value).get("LMUData_root") == folder:
            value.LMUData_root = os.path.join(os.path.expanduser("~"), "LMUData")  # type: ignore[attr-defined]


@contextmanager
def _restored_environment() -> Iterator[None]:
    variables, search_path = dict(os.environ), list(sys.path)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name not in variables]:
            del os.environ[name]
        for name, value in variables.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        sys.path[:] = search_path


@contextmanager
def _restored_randomness() -> Iterator[None]:
    devices: list[Any] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [logging.NullHandler()]  # the kit's complaint about a missing .env file goes nowhere
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
