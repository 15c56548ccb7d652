"""Progress as lines and as a bar, and that both count the whole table."""

from __future__ import annotations

import io

import pytest

from harness.sweep import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 20.0, 30.0, 35.0, 40.0])
    out = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(progress.time, "monotonic", lambda: next(clock))
        with progress.for_stream(out) as shown:
            shown.begin(300, 100)
            shown.at("m MVBench")
            for _ in range(2):
                shown.advance()
            shown.advance(failed=True)
    assert out.getvalue().splitlines() == [
        "300 answers, 100 of them there already",
        "102 of 300, 0.1/s, 33:00 left, m MVBench",
        "3 answers in 0:30, 0.1/s, 1 failed",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    with progress.for_stream(out) as shown:
        shown.begin(4, 1)
        shown.at("m MVBench")
        shown.advance()
        shown._bar.refresh()
        assert "m MVBench" in out.getvalue() and "2/4" in out.getvalue() and "/s" in out.getvalue()
    shown.close()


def test_durations() -> None:
    assert [progress.duration(seconds) for seconds in (0, 59.6, 75, 3700)] == ["0:00", "1:00", "1:15", "1:01:40"]
