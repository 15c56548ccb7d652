"""The micro editions, made once for all tests of this folder, in whichever process they run."""

from __future__ import annotations

import os
from pathlib import Path

import portalocker
import pytest

from harness.micro import editions


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # what the processes of one `make test` share
    with portalocker.Lock(root / "editions.lock", timeout=600):
        return editions.ensure(root / "editions")
