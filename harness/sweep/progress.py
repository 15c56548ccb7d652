"""How far the whole table is: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LINE_SECONDS = 15.0


class Progress:
    """What the sweep tells, counted and not shown. `advance` is called once an answer and must cost microseconds."""

    def __init__(self) -> None:
        self.total = self.done = self.fresh = self.failed = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, total: int, done: int) -> None:
        """`total` answers make the table, `done` of them were there before."""
        self.total, self.done = total, done

    def at(self, text: str) -> None:
        """What is being answered now, such as model and benchmark."""

    def advance(self, failed: bool = False) -> None:
        """One more answer, or one more failure."""
        self.fresh += 1
        self.failed += failed

    def close(self) -> None:
        """No more will come; safe to call twice."""


class Lines(Progress):
    """A plain line at the start, every `LINE_SECONDS` and at the end: for logs and pipes."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self.out, self.text = out, ""
        self.started = self.told = time.monotonic()

    def begin(self, total: int, done: int) -> None:
        super().begin(total, done)
        self.started = self.told = time.monotonic()
        self._tell(f"{total} answers, {done} of them there already")

    def at(self, text: str) -> None:
        self.text = text

    def advance(self, failed: bool = False) -> None:
        super().advance(failed)
        now = time.monotonic()
        if now - self.told >= LINE_SECONDS:
            self.told = now
            rate = self.fresh / (now - self.started)
            left = (self.total - self.done - self.fresh) / rate
            self._tell(f"{self.done + self.fresh} of {self.total}, {rate:.1f}/s, {duration(left)} left, {self.text}")

    def close(self) -> None:
        if self.fresh:
            seconds = time.monotonic() - self.started
            failed = f", {self.failed} failed" if self.failed else ""
            self._tell(f"{self.fresh} answers in {duration(seconds)}, {self.fresh / max(seconds, 1e-9):.1f}/s{failed}")
            self.fresh = 0

    def _tell(self, text: str) -> None:
        print(text, file=self.out, flush=True)


class Bar(Progress):
    """A live bar on a terminal. Redrawn twice a second by its own thread, so an answer costs a counter."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            console=Console(file=out),
            refresh_per_second=2,
            transient=True,
        )
        self._task: progress.TaskID | None = None
        self._shown = self._started = 0.0

    def begin(self, total: int, done: int) -> None:
        super().begin(total, done)
        self._started = time.monotonic()
        self._task = self._bar.add_task("", total=total, completed=done, rate="")
        self._bar.start()

    def at(self, text: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=text)

    def advance(self, failed: bool = False) -> None:
        super().advance(failed)
        now = time.monotonic()
        if self._task is not None and now - self._shown >= 0.25:
            self._shown = now
            rate = f"{self.fresh / (now - self._started):.1f}/s" + (f", {self.failed} failed" if self.failed else "")
            self._bar.update(self._task, completed=self.done + self.fresh, rate=rate)

    def close(self) -> None:
        self._bar.stop()


def duration(seconds: float) -> str:
    """`75` is `1:15`, `3700` is `1:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def for_stream(out: TextIO | None = None) -> Progress:
    """A bar where `out` (default: standard error) is a terminal, else lines."""
    out = out or sys.stderr
    return Bar(out) if out.isatty() else Lines(out)
