"""kill -9 at many random moments over a small table, the same command after each, until the table is whole.

    python -m tests.faults.kill --times 100 [--seed 0] [--out results/micro/kills.json]

A table (a tiny checkpoint, 6 cells on each of 2 benchmarks, 48 answers) is made once without interruption. Then again
and again from nothing: the run is killed at a random moment and started again until one ends by itself; every other
table by two workers, where the parent alone, one worker alone, or all are killed. Half of the moments are drawn over
the time of the whole run, half within a phase that is drawn first, since the shortest (plan, tables) would hardly be
met otherwise. What is real of a run and what is not: `tests.faults.command`.

Checked: no whole line that was on the disk before a kill is gone or changed after it; no sample is asked twice;
answers, scores and tables are those of the uninterrupted run, but for seconds; what a killed parent leaves behind ends
by itself. Exit status 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import identity
from tests.faults.command import PATIENCE, PHASES, Run

HELD = "no answer lost, none asked twice, every table as if never interrupted"
"""What is said at the end, where nothing `Wrong` was met."""
BENCHMARKS = ("NExT-QA-MC", "MMStar")
TIMES = ("seconds", "scoring_seconds")


class Wrong(Exception):
    """What was to hold does not."""


class Table:
    """The folders of one table that is made again and again. `reference`: what an uninterrupted run makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.store, self.log = folder, folder / "data", folder / "runs", folder / "log"
        self._write()
        self.fresh()
        run = self.start(1)
        if run.wait(PATIENCE) != 0:
            raise Wrong("the uninterrupted run")
        ends = [*(run.clock.began(phase) for phase in PHASES), time.monotonic()]
        self.durations = {phase: end - begin for phase, begin, end in zip(PHASES, ends, ends[1:], strict=False)}
        self.reference = self.content()

    def fresh(self) -> None:
        """The data as they are published, without what a run derives from them, and an empty store."""
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.folder / "published", self.data)

    def start(self, workers: int) -> Run:
        """The command."""
        self.log.unlink(missing_ok=True)
        options = ["--profile", "paper", "--data", self.data, "--store", self.store, "--workers", workers]
        return Run(["run", self.folder / "small.yaml", *options], self.log)

    def lines(self) -> dict[str, bytes]:
        """By cell, the whole lines of its answers that are on the disk."""
        found = {path.parent.name: path.read_bytes() for path in self.store.glob("cells/*/predictions.jsonl")}
        return {name: content[: content.rfind(b"\n") + 1] for name, content in found.items()}

    def content(self) -> dict[str, Any]:
        """Everything that a run leaves, but for seconds: answers by cell in order of their index, scores, tables."""
        made: dict[str, Any] = {}
        for name, content in self.lines().items():
            answers = [json.loads(line) for line in content.splitlines()]
            asked = Counter(str(answer["index"]) for answer in answers)
            if twice := [index for index, count in asked.items() if count > 1]:
                raise Wrong(f"asked twice in {name}: {', '.join(twice)}")
            kept = [{key: value for key, value in each.items() if key not in TIMES} for each in answers]
            made[f"cells/{name}"] = sorted(kept, key=lambda answer: str(answer["index"]))
        for path in sorted((*self.store.glob("scores/[!.]*"), *self.store.glob("tables/[!.]*"))):
            made[str(path.relative_to(self.store))] = _parts(path) if path.suffix == ".xlsx" else path.read_bytes()
        return made

    def _write(self) -> None:
        from tests.benchmarks import layouts
        from tests.sweep.conftest import write_experiment
        from tests.tiny import tiny_qwen2_vl

        for make in (layouts.next_qa, layouts.mmstar):
            make(self.folder / "published")
        checkpoint = tiny_qwen2_vl(self.folder / "tiny", seed=5)
        write_experiment(self.folder, checkpoint, benchmarks=BENCHMARKS)


class Killer:
    """Kills runs of one table and keeps the count."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table, self.random = table, random.Random(seed)
        self.phases: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.tables = 0
        self.before: dict[str, bytes] = {}

    @property
    def kills(self) -> int:
        """So far."""
        return self.phases.total()

    def attack(self, workers: int) -> bool:
        """One run, killed or, where it was sooner, ended by itself. Returns whether the table is whole."""
        run = self.table.start(workers)
        try:
            kind = self.random.choice(["all", "parent", "worker"]) if workers > 1 else "all"
            self._wait(run, kind)
            self._check()
            if run.wait(0) is None and self._kill(run, kind):
                self.phases[run.clock.phase] += 1
                self.kinds[f"{kind} of {workers}" if workers > 1 else "the one process"] += 1
            status = run.wait(PATIENCE)
            self._until_alone(run)
        finally:
            run.end()
        self._check()
        if status not in (0, -signal.SIGKILL, 3 if kind == "worker" else 0):
            raise Wrong(f"status {status}")
        return status == 0

    def compare(self) -> None:
        """The table that is whole now, with the reference."""
        made, reference = self.table.content(), self.table.reference
        wrong = [
            name
            for name in sorted({*made, *reference})
            # A run that lost a worker ended with an incomplete table, whose intervals are kept under their own key.
            if made.get(name) != reference.get(name) and (name in reference or not name.startswith("scores/table-"))
        ]
        if wrong:
            raise Wrong(f"differs from the uninterrupted run: {', '.join(wrong)}")
        self.tables += 1

    def fresh(self) -> None:
        """From nothing again."""
        self.table.fresh()
        self.before = {}

    def _wait(self, run: Run, kind: str) -> None:
        durations = self.table.durations
        if kind == "worker":
            run.wait_for("opening")
            run.wait(self.random.random() * (durations["opening"] + durations["answering"]))
        elif self.random.random() < 0.5:
            run.wait(self.random.random() * sum(durations.values()))
        else:
            phase = self.random.choice(PHASES)
            run.wait_for(phase)
            run.wait(self.random.random() * durations[phase])

    def _kill(self, run: Run, kind: str) -> bool:
        if kind != "worker":
            run.kill(tree=kind == "all")
            return True
        victims = run.workers()
        if victims:
            os.kill(self.random.choice(victims), signal.SIGKILL)
        return bool(victims)

    def _until_alone(self, run: Run) -> None:
        until = time.monotonic() + PATIENCE
        while left := run.members():
            if time.monotonic() > until:
                raise Wrong(f"processes {left} are left")
            time.sleep(0.005)

    def _check(self) -> None:
        """That all lines that were there once are there."""
        now = self.table.lines()
        lost = [name for name, content in self.before.items() if not now.get(name, b"").startswith(content)]
        if lost:
            raise Wrong(f"answers are lost or changed in {', '.join(lost)}")
        self.before = now


def _parts(path: Path) -> dict[str, bytes]:
    """Of a workbook, all but the properties, which say when it was made."""
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist() if not name.startswith("docProps/")}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="a JSON file for what is counted")
    chosen = parser.parse_args(arguments)
    from tqdm import tqdm

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="retain-kill-") as folder:
        table = Table(Path(folder))
        killer, whole = Killer(table, chosen.seed), False
        try:
            with tqdm(total=chosen.times, unit="kill", disable=None) as bar:
                while killer.kills < chosen.times or not whole:
                    whole = killer.attack(workers=1 + killer.tables % 2)
                    bar.update(killer.kills - bar.n)
                    if whole:
                        killer.compare()
                        killer.fresh()
        except Wrong as error:
            said = table.log.read_text() if table.log.exists() else ""
            print(f"{said}\nWRONG after {killer.kills} kills (seed {chosen.seed}): {error}")
            return 1
        total = sum(len(each) for name, each in table.reference.items() if name.startswith("cells/"))
    counts = {
        "kills": killer.kills,
        "by_phase": {phase: killer.phases[phase] for phase in PHASES},
        "by_victim": dict(sorted(killer.kinds.items())),
        "tables": killer.tables,
        "answers_of_a_table": total,
        "seconds": round(time.monotonic() - start),
    }
    command = f"python -m tests.faults.kill --times {chosen.times} --seed {chosen.seed}"
    if chosen.out:
        content = {"command": command, **identity.origin(), **counts, "result": HELD}
        chosen.out.write_text(json.dumps(content, indent=1) + "\n")
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    print(HELD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
