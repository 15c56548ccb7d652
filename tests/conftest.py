"""The command as it is called, for every test of it; and which files are begun first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.cli import main
from tests.warm import context

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    """Runs the command in this process: status, standard output, standard error. A traceback is a failure."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return call


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that runs, decoding and collecting start begin with their imports done."""
    from harness.compressor import crew
    from harness.sweep import decoding, workers

    for module in (crew, decoding, workers):
        monkeypatch.setattr(module, "get_context", lambda _: context())


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small question files in the published layouts pass for the published ones; see tests/benchmarks/test_witness."""
    monkeypatch.setattr("harness.cli.unpublished", lambda *_: [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
