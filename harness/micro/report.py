"""What the embedded default must show for its table to mean anything, measured on the table itself.

`retain micro report` reads the finished micro table from the store and writes results/micro: the table, `bars.json` and
README.md with each bar, its measured value and whether it holds. A bar that does not hold is written down as such.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from tabulate import tabulate

from harness.layout import RowResult, Table
from harness.micro.prompts import VIDEO_FORMATS
from harness.micro.questions import DOMAINS, TOPICS

COMMAND = "make table3 && .venv/bin/retain micro report"
SCALE = {"MMBench-Video": 3.0}
"""Headline score of an all-right run, where it is not 100."""


@dataclass(frozen=True)
class Bar:
    """One thing the embedded default must show. Points are percentage points of right answers."""

    name: str
    wanted: str
    measured: str
    holds: bool


def accuracy(row: RowResult) -> dict[str, float]:
    """Percent of right answers by benchmark."""
    return {
        name: 100.0 * cell.score / SCALE.get(name, 100.0) for name, cell in row.cells.items() if cell.score is not None
    }


def guessing(data: Path) -> dict[str, float]:
    """Percent right that blind guessing among the possible answers gives, by benchmark."""
    manifest = json.loads((data / "manifest.json").read_text("utf-8"))
    expected = {}
    for name, entry in manifest.items():
        options = VIDEO_FORMATS[name].options
        chances = [1 / (options or len(DOMAINS[TOPICS[topic]])) for topic in entry["topics"]]
        expected[name] = 100 * fmean(chances)
    return expected


def bars(table: Table, data: Path) -> list[Bar]:
    """The bars, from a complete table."""
    rows = {(row.method, row.retention): accuracy(row) for row in table.rows}
    means = {key: fmean(values.values()) for key, values in rows.items()}
    vanilla, guess = rows["vanilla", 1.0], guessing(data)
    full, chance = means["vanilla", 1.0], fmean(guess.values())
    worst = min(vanilla, key=lambda name: vanilla[name])
    oracle, anti = means["oracle", 0.1], means["anti-oracle", 0.5]
    random, relevance = means["random", 0.1], means["relevance", 0.1]
    return [
        Bar(
            "vanilla answers every benchmark",
            "at least 85% on each",
            f"lowest: {vanilla[worst]:.1f}% on {worst}",
            vanilla[worst] >= 85,
        ),
        Bar(
            "oracle at 0.10 answers like vanilla",
            "at most 3 points below vanilla",
            f"{oracle:.1f}% against {full:.1f}%",
            oracle >= full - 3,
        ),
        Bar(
            "anti-oracle at 0.50 guesses",
            "within 10 points of guessing among the possible answers",
            f"{anti:.1f}%, guessing gives {chance:.1f}%",
            anti <= chance + 10,
        ),
        Bar(
            "random at 0.10 fails",
            "at least 25 points below vanilla on average",
            f"{full - random:.1f} points below ({random:.1f}%)",
            full - random >= 25,
        ),
        Bar(
            "relevance at 0.10 is clearly above random",
            "at least 10 points above random on average",
            f"{relevance - random:.1f} points above ({relevance:.1f}%)",
            relevance - random >= 10,
        ),
    ]


def write(table: Table, tables: Path, data: Path, out: Path) -> list[Bar]:
    """Copies the table's files from `tables` to `out` and writes `bars.json` and README.md beside them."""
    out.mkdir(parents=True, exist_ok=True)
    for suffix in ("md", "csv"):
        shutil.copyfile(tables / f"table3.{suffix}", out / f"table3.{suffix}")
    found = bars(table, data)
    content = {
        "command": COMMAND,
        "bars": [asdict(bar) for bar in found],
        "accuracy_pct": {
            f"{row.method}@{row.retention:g}": {name: round(value, 1) for name, value in accuracy(row).items()}
            for row in table.rows
        },
        "guessing_pct": {name: round(value, 1) for name, value in guessing(data).items()},
    }
    (out / "bars.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    (out / "README.md").write_text(_page(found), "utf-8")
    return found


def _page(found: list[Bar]) -> str:
    lines = [[bar.name, bar.wanted, bar.measured, "yes" if bar.holds else "**no**"] for bar in found]
    table = tabulate(lines, headers=["what", "wanted", "measured", "holds"], tablefmt="github")
    return f"""# What the embedded default gave

Micro results: `micro-qwen2-vl` on generated scenes. Made by `{COMMAND}`.

- [table3.md](table3.md), [table3.csv](table3.csv): the table that `make table3` prints.
- [bars.json](bars.json): percent of right answers by row and benchmark, the guessing level, and the bars below.
- [bench.json](bench.json): speed and the machine, by `.venv/bin/retain bench --samples 6 --limit 25`.

{table}
"""
