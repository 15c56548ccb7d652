"""The store as the driver of a cluster uses it: it alone appends, and it holds the locks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from harness.plan import Plan
from harness.store import Answer, CellWriter, Store
from harness.sweep.shards import Group, Wanted


class Ledger:
    """The open cells of a run, by group. For a `with`, at whose end all of them are closed."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self._open: dict[Group, dict[str, CellWriter]] = {}
        self._closing: dict[Group, Callable[[], None]] = {}

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for group in list(self._open):
                stack.callback(self.close, group)

    def open(self, group: Group) -> Wanted:
        """Locks the cells of a group; what they lack, in the benchmark's order, those last that failed before.

        Raises StoreError as `Store.open` does.
        """
        with ExitStack() as stack:
            opened = [stack.enter_context(self.store.open(cell.settings)) for cell in self.plan.of(*group)]
            self._closing[group] = stack.pop_all().close
        self._open[group] = {writer.cell.id: writer for writer in opened}
        indices = self.plan.samples[group[1]]
        lacking = {cell: set(writer.lacking(indices)) for cell, writer in self._open[group].items()}
        wanted = {index: tuple(cell for cell, lacks in lacking.items() if index in lacks) for index in indices}
        last = sorted(wanted, key=lambda index: any(writer.failed(index) for writer in opened))
        return {index: wanted[index] for index in last if wanted[index]}

    def append(self, group: Group, cell: str, answer: Answer) -> None:
        """Keeps an answer to the cell of that id. StoreError when the disk refuses."""
        self._open[group][cell].append(answer)

    def close(self, group: Group) -> None:
        """Gives the locks of a group back; safe to call twice."""
        if self._open.pop(group, None):
            self._closing.pop(group)()
