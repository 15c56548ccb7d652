"""What judges cost one experiment, and the limit on it."""

from __future__ import annotations

import threading
from pathlib import Path

from harness.judging.ledger import Ledger, Tally


class Account:
    """The judging of one experiment during one run: all of its judges' ledgers, its limit, and why a judge stopped.

    `limit`: US dollars that the experiment may spend on judges in all, this run and earlier ones in this store
    together; None for no limit. It is one unit on purpose: dollars are what a cap is for, and for a model without a
    price the experiment gives one (0 for a server of one's own). `asks=False`: only verdicts that are there are used.

    A call is paid for in advance with the most that it can cost, and settled when it is over; one that does not fit
    waits for those in flight. So the limit is never crossed, however many calls are in flight. Two runs of one
    experiment at the same time each see what the other has spent as of their own start.
    """

    def __init__(self, folder: Path, experiment: str, *, limit: float | None = None, asks: bool = True) -> None:
        self.experiment, self.limit, self.asks = experiment, limit, asks
        self.run: dict[str, Tally] = {}
        """By benchmark, the calls of this run."""
        self.remembered: dict[str, int] = {}
        """By benchmark, the verdicts of this run that were there before."""
        self.stopped: dict[str, str] = {}
        """By model, why it is asked no more."""
        self._ledgers = {path: Ledger(path) for path in sorted(folder.glob("*.jsonl"))}
        self.before = self._tallies()
        self._spent = sum(tally.charge for tally in self.before.values())
        self._reserved, self._in_flight = 0.0, 0
        self._changed = threading.Condition()

    def ledger(self, path: Path) -> Ledger:
        """The ledger at `path`, read once a run."""
        if path not in self._ledgers:
            self._ledgers[path] = Ledger(path)
        return self._ledgers[path]

    @property
    def spent(self) -> float:
        """US dollars of the experiment so far, calls of unknown tokens with the most that they can have cost."""
        return self._spent

    def reserve(self, dollars: float) -> bool:
        """Pays in advance; waits while calls in flight may turn out cheaper. False where it does not fit."""
        with self._changed:
            while self.limit is not None and self._spent + self._reserved + dollars > self.limit:
                if not self._in_flight:
                    return False
                self._changed.wait()
            self._reserved += dollars
            self._in_flight += 1
            return True

    def settle(self, reserved: float, benchmark: str, entry: dict[str, object] | None) -> None:
        """Ends a call that was paid for in advance: what its line in the ledger says; None: it cost nothing."""
        with self._changed:
            self._in_flight -= 1
            self._reserved = self._reserved - reserved if self._in_flight else 0.0
            if entry is not None:
                tally = Tally()
                tally.book(entry)
                self.run.setdefault(benchmark, Tally()).add(tally)
                self._spent += tally.charge
            self._changed.notify_all()

    def remember(self, benchmark: str, verdicts: int) -> None:
        """So many verdicts were there before."""
        self.remembered[benchmark] = self.remembered.get(benchmark, 0) + verdicts

    def stop(self, model: str, reason: str) -> None:
        """This run asks a model no more; the first reason counts."""
        self.stopped.setdefault(model, reason)

    def in_all(self) -> dict[str, Tally]:
        """By benchmark, the calls of this experiment in all runs."""
        found = {name: Tally(**vars(tally)) for name, tally in self.before.items()}
        for name, tally in self.run.items():
            found.setdefault(name, Tally()).add(tally)
        return found

    def _tallies(self) -> dict[str, Tally]:
        found: dict[str, Tally] = {}
        for ledger in self._ledgers.values():
            for (experiment, benchmark), tally in ledger.tallies.items():
                if experiment == self.experiment:
                    found.setdefault(benchmark, Tally()).add(tally)
        return found
