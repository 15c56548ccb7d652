"""The micro editions, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.micro import editions


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return editions.ensure(tmp_path_factory.mktemp("data"))
