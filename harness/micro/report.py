"""What the embedded default must show for its tables to mean anything, measured for each of its models.

`retain micro report` reads the finished experiment `bounds` from the store and writes results/micro: the tables that
are finished, `bars.json` and README.md with each bar, its measured value and whether it holds. A bar that does not hold
is written down as such.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tabulate import tabulate

from harness import identity
from harness.disk import disk_errors, write_atomically
from harness.micro.image_editions import FORMATS
from harness.micro.prompts import IMAGE_FORMATS, VIDEO_FORMATS
from harness.micro.questions import DOMAINS, TOPICS
from harness.store import Store

COMMAND = ".venv/bin/retain micro report"
RUNS = "`make tables` and `.venv/bin/retain run` of bounds, matched, positions and teachers"

FROM_STORE = (
    ("figures", "figure3", ("png", "svg", "points.csv"), "preservation over average retention, by `make figure3`."),
    ("", "efficiency", ("md", "json", "png", "svg"), "what methods cost and gain, by the commands under its tables."),
)
"""In the store, beside its tables: folder, name, endings, and what it is."""

BESIDE = {
    "bench.json": "speed and the machine, by `retain bench` as the file says.",
    "differences.json": "what the faults of VLMEvalKit's LLaVA-OneVision class cost, by `retain micro differences`.",
    "kills.json": "kill -9 of a small table at many moments, by `python -m tests.faults.kill` as the file says.",
    "ablations/README.md": "what the compressor's design and its teacher are worth, by `retain compressor ablate`.",
    "figures/README.md": "what the models look at, by `retain show`.",
}
"""What other commands put there, named where it is."""

RIVALS = ("cnn", "first_layer_attention", "random")
CHECKPOINTS = Path(__file__).parent / "checkpoints"

Accuracies = Mapping[tuple[str, float], Mapping[str, float]]
"""(method, keep) -> benchmark -> percent of questions answered right."""


@dataclass(frozen=True)
class Bar:
    """One thing a model of the embedded default must show. Points are percentage points of right answers."""

    model: str
    name: str
    wanted: str
    measured: str
    holds: bool


def accuracies(sources: Iterable[Mapping[str, Any]], store: Store) -> dict[str, Accuracies]:
    """By model, what was answered right, from the scores that a table was made of; a method's seeds are averaged."""
    found: dict[str, dict[tuple[str, float], dict[str, list[float]]]] = {}
    for source in sources:
        row = found.setdefault(source["model"], {}).setdefault((source["method"], source["keep"]), {})
        for benchmark, cell in source["cells"].items():
            score = store.score(cell["score"])
            assert score is not None
            row.setdefault(benchmark, []).append(100 * fmean(right for _, right in score["per_sample"]))
    return {
        model: {key: {name: fmean(values) for name, values in row.items()} for key, row in rows.items()}
        for model, rows in found.items()
    }


def guessing(data: Path) -> dict[str, float]:
    """Percent right that blind guessing among the possible answers gives, by benchmark."""
    manifest = json.loads((data / "manifest.json").read_text("utf-8"))
    expected = {}
    for name, entry in manifest.items():
        options = (VIDEO_FORMATS.get(name) or IMAGE_FORMATS[FORMATS[name]]).options
        chances = [1 / (options or len(DOMAINS[TOPICS[topic]])) for topic in entry["topics"]]
        expected[name] = 100 * fmean(chances)
    return expected


def bars(model: str, found: Accuracies, guess: Mapping[str, float]) -> list[Bar]:
    """The bars of one model, from its rows of a complete table, over its video and over its image benchmarks."""
    made: list[Bar] = []
    for kind, wanted in (("video", VIDEO_FORMATS), ("image", FORMATS)):
        names = [name for name in wanted if name in found["vanilla", 1.0]]
        if names:
            made += _bars(model, kind, names, found, guess)
    return made


def _bars(model: str, kind: str, names: Sequence[str], found: Accuracies, guess: Mapping[str, float]) -> Iterable[Bar]:
    def mean(method: str, keep: float) -> float:
        return fmean(found[method, keep][name] for name in names)

    vanilla = found["vanilla", 1.0]
    worst = min(names, key=lambda name: vanilla[name])
    full, chance = mean("vanilla", 1.0), fmean(guess[name] for name in names)
    oracle, anti = mean("oracle", 0.1), mean("anti-oracle", 0.5)
    random, relevance = mean("random", 0.1), mean("relevance", 0.1)
    yield Bar(
        model,
        f"vanilla answers every {kind} benchmark",
        "at least 85% on each",
        f"lowest: {vanilla[worst]:.1f}% on {worst}",
        vanilla[worst] >= 85,
    )
    yield Bar(
        model,
        f"oracle at 0.10 answers like vanilla ({kind})",
        "at most 3 points below vanilla",
        f"{oracle:.1f}% against {full:.1f}%",
        oracle >= full - 3,
    )
    yield Bar(
        model,
        f"anti-oracle at 0.50 guesses ({kind})",
        "within 10 points of guessing among the possible answers",
        f"{anti:.1f}%, guessing gives {chance:.1f}%",
        anti <= chance + 10,
    )
    yield Bar(
        model,
        f"random at 0.10 fails ({kind})",
        "at least 25 points below vanilla on average",
        f"{full - random:.1f} points below ({random:.1f}%)",
        full - random >= 25,
    )
    yield Bar(
        model,
        f"relevance at 0.10 is clearly above random ({kind})",
        "at least 10 points above random on average",
        f"{relevance - random:.1f} points above ({relevance:.1f}%)",
        relevance - random >= 10,
    )


def write(found: Mapping[str, Accuracies], tables: Path, data: Path, out: Path) -> list[Bar]:
    """Copies the finished tables from `tables` to `out` and writes `bars.json` and README.md beside them."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    names = sorted(path.stem for path in tables.glob("*.md"))
    for name in names:
        for suffix in ("md", "csv", "sources.json"):
            shutil.copyfile(tables / f"{name}.{suffix}", out / f"{name}.{suffix}")
    beside = _beside(tables.parent, out)
    guess = guessing(data)
    made = [bar for model, rows in found.items() for bar in bars(model, rows, guess)]
    content = {
        "command": COMMAND,
        **identity.origin(),
        "bars": [asdict(bar) for bar in made],
        "accuracy_pct": {
            model: {
                f"{method}@{keep:g}": {name: round(value, 1) for name, value in row.items()}
                for (method, keep), row in rows.items()
            }
            for model, rows in found.items()
        },
        "guessing_pct": {name: round(value, 1) for name, value in guess.items()},
    }
    write_atomically(out / "bars.json", json.dumps(content, indent=1) + "\n")
    write_atomically(out / "README.md", _page(made, names, beside))
    return made


def _beside(store: Path, out: Path) -> list[str]:
    """Copies the figure and the measurements that the store holds; what the page says of each thing that is there."""
    said = []
    for folder, name, suffixes, what in FROM_STORE:
        for suffix in suffixes:
            if (made := store / folder / f"{name}.{suffix}").is_file():
                shutil.copyfile(made, out / made.name)
        if (out / f"{name}.png").is_file():
            listed = ", ".join(f"[{name}.{suffix}]({name}.{suffix})" for suffix in suffixes)
            said.append(f"- {listed}: {what}")
    return said + [f"- [{name}]({name}): {what}" for name, what in BESIDE.items() if (out / name).exists()]


def compressors(checkpoints: Path) -> str:
    """What the committed compressors scored on their held-out samples when they were trained, as a table."""
    lines = []
    for path in sorted(checkpoints.glob("*/compressor-*/training.json")):
        held_out = json.loads(path.read_text("utf-8"))["held_out"]
        shares = [f"{100 * held_out['scores'][method]['overlap@0.25'][0]:.1f}" for method in RIVALS]
        ahead = [_points(held_out["ahead"][RIVALS[1]][metric]) for metric in ("overlap@0.25", "mass@0.25")]
        media = path.parent.name.removeprefix("compressor-")
        lines.append([path.parents[1].name, media, held_out["samples"], *shares, *ahead])
    headers = ["model", "media", "samples", *RIVALS, "cnn ahead of its input", "by mass"]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def _points(interval: Sequence[float]) -> str:
    """A difference of shares and its bounds, in points."""
    ahead, low, high = (100 * value for value in interval)
    return f"{ahead:+.1f} [{low:+.1f}, {high:+.1f}]"


def _page(made: Sequence[Bar], names: Sequence[str], beside: Sequence[str]) -> str:
    lines = [[bar.model, bar.name, bar.wanted, bar.measured, "yes" if bar.holds else "**no**"] for bar in made]
    table = tabulate(lines, headers=["model", "what", "wanted", "measured", "holds"], tablefmt="github")
    listed = ", ".join(f"[{name}.md]({name}.md) ([csv]({name}.csv))" for name in names)
    more = "".join(f"{line}\n" for line in beside)
    return f"""# What the embedded default gave

Micro results: three small models on generated scenes. Gathered by `{COMMAND}` after {RUNS}; what
else is here names its own command.

- Tables: {listed}. Of each, NAME.sources.json
  names the commit and the cells that each number was made of. The id of a cell is a digest of all that its answers
  depend on (code, weights, data, prompts, versions): the same table made again names the same cells.
- [bars.json](bars.json): percent of right answers by model, row and benchmark, the guessing level, and the bars below.
{more}
{table}

## Compressors

Share of the tokens kept at 25% that exact relevance would keep, too, on held-out samples; in brackets the 95% interval
of the difference, in points. By mass: the same of the share of all relevance that the tokens kept at 25% have. Each
folder of `harness/micro/checkpoints` has its card.

{compressors(CHECKPOINTS)}

By mass, which the loss asks for, all six are ahead of their input. By overlap the videos' compressors of
micro-llava-onevision and micro-vila are not, and none that was tried is by more than 0.6 points: one to seven layers, a
quarter of the paper's width to twice it, 0 to 75% of the label set to zero, 30 to 200 epochs, raw attention or divided
by its mean ([ablations](ablations/README.md)). A network of kernel 1 can only rescale attention, and scores on videos
as attention does; wider kernels are ahead of it on micro-qwen2-vl, behind it on micro-llava-onevision, and about level
with it on micro-vila: on these two what stands beside a token tells little of it. The frames of a video are 36 tokens
long on micro-llava-onevision, where five convolutions of width 3 see 11, but kernels of 5 and 7 gain nothing.

Overlap is no end in itself: on micro-llava-onevision a compressor of 100 epochs, where the published one has 40, is 8
points behind its input in overlap and keeps 88% of vanilla by the answers at 25%, where the published one keeps 73%.

micro-llava-onevision's compressors and those of the two others for images were taught from 1,500 samples
(`retain micro teach MODEL --samples 1500`), the videos' of the two others from the 3,000 that `make micro` asks for.
"""
