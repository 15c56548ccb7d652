"""The command `retain`. Nothing heavy is imported before a command needs it.

Exit status: 0 done; 2 a mistake that the user can mend, told in one sentence; 3 done, but some samples failed or cells
are incomplete; 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by the end of its terminal.
"""

from __future__ import annotations

import logging
import shlex
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.data.command import data
from harness.disk import refusal
from harness.doctor.command import doctor
from harness.flops.command import flops
from harness.matching import MATCHED, Match
from harness.signals import interrupting
from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from harness.experiments import Experiment
    from harness.plan import Data
    from harness.results import Results
    from harness.store import Store
    from harness.sweep import SweepResult

FAILED, STOPPED, MISTAKEN = 3, 130, 2
SHOWN_FAILURES = 20
USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Every mistake in the use of the command line; typer may bring its own copy of click."""

app = typer.Typer(
    name="retain",
    help="A referee for visual-token compression in multimodal LLMs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

ExperimentArgument = Annotated[str, typer.Argument(help="an experiment's name (see `retain list`) or .yaml file")]
ProfileOption = Annotated[str, typer.Option(help="which profile of the experiment")]
LimitOption = Annotated[int | None, typer.Option(help="only the first N samples of each benchmark", metavar="N")]
DataOption = Annotated[
    Path | None, typer.Option(help="folder of the data (default: results/data/paper; micro: made under results/data)")
]
StoreOption = Annotated[Path, typer.Option(help="where predictions, scores and tables lie")]
MatchOption = Annotated[
    Match | None,
    typer.Option(help="choose each method's keep so that at one retention all hold as many tokens over the layers"),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="processes that answer (default: what cores, memory and GPU allow)"),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="answer on a Ray cluster: auto (this machine's GPUs, else cores) or HOST:PORT"
    ),
]
JudgeLimitOption = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="DOLLARS", help="what the experiment's judges may cost in all, earlier runs of it included"
    ),
]
DEFAULT_STORE = Path("results/runs")


@app.command()
def run(
    experiment: ExperimentArgument,
    profile: ProfileOption = "micro",
    limit: LimitOption = None,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    score: Annotated[bool, typer.Option("--score/--no-score", help="score and print the table afterwards")] = True,
    workers: WorkersOption = None,
    ray: RayOption = None,
    match: MatchOption = None,
    judge_limit: JudgeLimitOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what the run would do and cost; nothing is asked or written")
    ] = False,
) -> None:
    """Answer what is missing of an experiment, score it, print its table and write it to STORE/tables."""
    if dry_run:
        print(_dry_run(experiment, profile, limit, data, store, match), end="")
        return
    from harness import plan as plans
    from harness import results, sweep
    from harness.matching import impossible
    from harness.store import Store
    from harness.sweep import cluster
    from harness.sweep.progress import for_stream

    if ray is not None:
        if workers is not None:
            raise UserError(
                "--workers is for processes of this machine; with --ray the cluster says how many there are"
            )
        cluster.check(ray)
    chosen, opened = _prepare(experiment, profile, limit, data, store, match)
    kept = Store(store)
    plan = plans.make(chosen, opened, kept)
    for sentence in plan.left_out():
        print(f"retain: {sentence}; the table shows - there", file=sys.stderr)
    for said in impossible(plan):
        print(f"retain: {said}", file=sys.stderr)
    if score and any(sweep.lacking(plan, kept).values()):
        # Before hours of answering, not after.
        results.check_judges(chosen, kept, results.account_of(chosen, kept, limit=judge_limit))
    with for_stream() as progress:
        result = sweep.run(chosen, kept, data=opened, plan=plan, progress=progress, workers=workers, ray=ray)
    complete = _finish(result, opened, kept, judge_limit) if score else True
    if result.failures:
        _tell_failures(result)
    for group in result.unfinished:
        where = f"{group.model} {group.benchmark}"
        print(f"\n{where} is unfinished: {group.reason}; repeat the command to go on with it.", file=sys.stderr)
    if result.failures or result.unfinished or not complete:
        raise typer.Exit(FAILED)


@app.command()
def table(
    experiment: ExperimentArgument,
    profile: ProfileOption = "micro",
    limit: LimitOption = None,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    match: MatchOption = None,
) -> None:
    """Print an experiment's table from the answers that are there; nothing is asked."""
    from harness import plan as plans
    from harness import results
    from harness.store import Store
    from harness.tables.render import to_markdown

    chosen, opened = _prepare(experiment, profile, limit, data, store, match)
    kept = Store(store)
    found = results.collect(plans.make(chosen, opened, kept), opened, kept)
    print(to_markdown(found.table), end="")
    if found.lacks:
        _tell_lacks(found)
        raise typer.Exit(FAILED)


@app.command()
def figure(
    experiment: ExperimentArgument,
    profile: ProfileOption = "micro",
    limit: LimitOption = None,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Draw an experiment's averages over the visual tokens that they took, from the answers that are there."""
    from harness import plan as plans
    from harness import results
    from harness.figures import draw, points
    from harness.store import Store

    chosen, opened = _prepare(experiment, profile, limit, data, store)
    kept = Store(store)
    plan = plans.make(chosen, opened, kept)
    found = results.collect(plan, opened, kept)
    drawn = points.points(found.table, points.layer_means(plan, kept))
    if not drawn:
        raise UserError(f"no row of {chosen.name} is complete yet, so there is nothing to draw; `retain run` asks them")
    print(f"Written: {_braced(draw.write(found.table.title, drawn, store / 'figures', chosen.name))}")
    if found.lacks:
        _tell_lacks(found)
        raise typer.Exit(FAILED)


@app.command()
def leaderboard(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="default: the tables in STORE that go together"),
    ] = None,
    profile: ProfileOption = "micro",
    limit: LimitOption = None,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="where it is written (default: STORE/leaderboard)")] = None,
    match: MatchOption = None,
) -> None:
    """Put experiments' tables together, one row a (model, method, keep), as CSV, JSON and HTML; nothing is asked."""
    from harness import plan as plans
    from harness import results
    from harness.experiments import experiment_names, load
    from harness.leaderboard.gather import Gathering
    from harness.leaderboard.write import to_markdown, write
    from harness.store import Store

    kept = Store(store)
    gathering = Gathering(kept)
    end = MATCHED if match else ""
    made = [name for name in experiment_names() if (store / "tables" / f"{name}{end}.csv").is_file()]
    made = [name for name in made if load(name, profile, data=data, match=match).match == match]
    if not (names or made):
        raise UserError(f"there is no table in {store / 'tables'} yet; `retain run` makes them")
    for name in names or made:
        chosen, opened = _prepare(name, profile, limit, data, store, match)
        plan = plans.make(chosen, opened, kept)
        found = results.collect(plan, opened, kept)
        if not names and (said := gathering.conflict(plan, found)):
            print(f"retain: left out: {said}", file=sys.stderr)
            continue
        gathering.add(plan, found, opened)
    board = gathering.leaderboard()
    print(to_markdown(board), end="")
    print(f"\nWritten: {_braced(write(board, out or store / f'leaderboard{end}'))}")
    if not all(entry.complete for entry in board.entries):
        raise typer.Exit(FAILED)


@app.command()
def reference(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="one of the paper's tables, such as table3")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Print one of the paper's tables, with our numbers beside its own where there are some."""
    from harness.tables import reference as paper
    from harness.tables.render import from_csv

    ours = store / "tables" / f"{name}.csv"
    print(paper.render(name, from_csv(ours.read_text("utf-8")) if ours.is_file() else None), end="")


@app.command()
def show(
    model: Annotated[str, typer.Option(help="a model's name (see `retain list`) or checkpoint folder")],
    question: Annotated[str, typer.Option(help="what it is asked")],
    image: Annotated[Path | None, typer.Option(help="a picture to ask about, or")] = None,
    video: Annotated[Path | None, typer.Option(help="a video")] = None,
    keep: Annotated[
        list[float] | None, typer.Option(help="shares of the visual tokens to keep (default: 0.5 0.25)")
    ] = None,
    keeps: Annotated[
        list[float] | None, typer.Argument(metavar="KEEP", help="more shares, as in --keep 0.5 0.25")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="frames of the video (default: the model's setting)")] = None,
    out: Annotated[Path, typer.Option(help="folder of the PNG and the page")] = DEFAULT_STORE / "show",
) -> None:
    """Draw what a model looks at in a picture or video, and what it answers from the tokens that are kept."""
    from harness.show.request import check

    request = check(model, question, image, video, [*(keep or ()), *(keeps or ())], frames)

    from harness.show.draw import draw
    from harness.show.gather import gather
    from harness.show.page import write

    print(f"Written: {_braced(write(draw(gather(request)), out))}")


@app.command(name="list")
def list_names() -> None:
    """List the models, methods, benchmarks and experiments that are known by name."""
    from harness.benchmarks import benchmark_names
    from harness.experiments import experiment_names
    from harness.models import model_names
    from model_wrappers.registry import method_names

    for title, names in (
        ("models", model_names()),
        ("methods", method_names()),
        ("benchmarks", benchmark_names()),
        ("experiments", experiment_names()),
    ):
        print(f"{title}: {', '.join(names)}")


app.command()(flops)
app.command()(data)
app.command()(doctor)


@app.command(context_settings=PASS_ON)
def vlmeval(context: typer.Context) -> None:
    """Run VLMEvalKit's own command with our models, such as --model Qwen2-VL-7B-Instruct+cnn@0.25."""
    from harness.models import run_vlmevalkit

    raise typer.Exit(run_vlmevalkit(context.args) or 0)


@app.command(context_settings=PASS_ON)
def micro(context: typer.Context) -> None:
    """Make the embedded default: `retain micro --help` lists its commands."""
    from harness.micro.cli import main as micro_main

    raise typer.Exit(micro_main(context.args) or 0)


@app.command(context_settings=PASS_ON)
def compressor(context: typer.Context) -> None:
    """Teach a model's compressor: `retain compressor --help` lists its commands."""
    from harness.compressor.cli import main as compressor_main

    raise typer.Exit(compressor_main(context.args) or 0)


@app.command(context_settings=PASS_ON)
def bench(context: typer.Context) -> None:
    """Measure speed: the sweep against VLMEvalKit's loop, the whole grid, overhead, import time."""
    from harness.bench import main as bench_main

    raise typer.Exit(bench_main(context.args) or 0)


@app.command(context_settings=PASS_ON)
def efficiency(context: typer.Context) -> None:
    """Measure what methods cost and gain in time and memory: `retain efficiency --help` lists its options."""
    from harness.efficiency import main as efficiency_main

    raise typer.Exit(efficiency_main(context.args) or 0)


def main(arguments: list[str] | None = None) -> int:
    """The entry point. Returns the exit status; prints a user's mistake as one sentence and no traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="retain: %(message)s", stream=sys.stderr)
    with interrupting() as ending:
        status = _status(arguments)
        if status == STOPPED:
            command = shlex.join(["retain", *arguments])
            print(f"\nretain: stopped; every answer given so far is kept. Go on with: {command}", file=sys.stderr)
            return ending.status
        return status


def _status(arguments: list[str]) -> int:
    """Runs the command; what it or its end means to a shell."""
    try:
        status = app(args=arguments, prog_name="retain", standalone_mode=False)
        sys.stdout.flush()
    except USAGE as error:
        error.show()
        return MISTAKEN
    except UserError as error:
        print(f"retain: {error}", file=sys.stderr)
        return MISTAKEN
    except OSError as error:  # of a library that writes or reads where we did not foresee it
        if (said := refusal(error)) is None:
            raise
        print(f"retain: {said}", file=sys.stderr)
        return MISTAKEN
    except SystemExit as leaving:  # a command that was handed over to may end the process by itself
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except (KeyboardInterrupt, typer.Abort):
        return STOPPED
    return status if isinstance(status, int) else 0  # typer makes STOPPED of Ctrl-C


def _prepare(
    experiment: str, profile: str, limit: int | None, data: Path | None, store: Path, match: Match | None = None
) -> tuple[Experiment, Data]:
    """The checked experiment and its data folder: micro's is made first, real data must all be there."""
    from harness import experiments
    from harness.plan import Data
    from harness.store import Store

    chosen = experiments.load(experiment, profile, max_samples=limit, data=data, match=match)
    if data is None and chosen.data == "micro":
        from harness.micro.editions import ensure

        data = ensure(Path("results/data"))
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: there is no such folder")
    if chosen.data != "micro":
        from harness.data.sources import PAPER
        from harness.data.state import missing

        data = data or PAPER
        if faults := missing(chosen.benchmarks, data):
            for fault in faults:
                print(f"retain: {fault}", file=sys.stderr)
            raise typer.Exit(MISTAKEN)
    assert data is not None
    return chosen, Data(chosen, data, Store(store).pictures)


def _dry_run(
    experiment: str, profile: str, limit: int | None, data: Path | None, store: Path, match: Match | None
) -> str:
    from harness import experiments
    from harness.data.sources import PAPER
    from harness.estimate.dry_run import dry_run
    from harness.plan import Data
    from harness.store import Store

    chosen = experiments.load(experiment, profile, max_samples=limit, data=data, match=match)
    kept = Store(store)
    folder = data or PAPER  # what is lacking there is no mistake here: published numbers stand in for it
    if chosen.data == "micro" or (data is not None and not data.is_dir()):
        folder = _prepare(experiment, profile, limit, data, store, match)[1].folder
    with tempfile.TemporaryDirectory(prefix="retain-") as pictures:  # of the few samples that are looked at
        return dry_run(chosen, Data(chosen, folder, Path(pictures)) if folder.is_dir() else None, kept)


def _finish(result: SweepResult, data: Data, store: Store, judge_limit: float | None) -> bool:
    """Scores, prints and writes the table; whether every cell of it is complete."""
    from harness import results
    from harness.judging.report import sentences
    from harness.tables.render import to_markdown

    account = results.account_of(result.plan.experiment, store, limit=judge_limit)
    found = results.collect(result.plan, data, store, account=account)
    print(to_markdown(found.table), end="")
    if found.judging:
        print("\n" + "\n".join(sentences(found.judging)))
    paths = results.write(found, store.root / "tables", result.plan.experiment.name)
    print(f"\nWritten: {_braced(paths)}")
    for reason in account.stopped.values():
        print(f"retain: not all is judged: {reason}", file=sys.stderr)
    return not found.lacks


def _braced(paths: Iterable[Path]) -> str:
    paths = list(paths)
    suffixes = ",".join(path.name.partition(".")[2] for path in paths)
    return f"{paths[0].parent / paths[0].name.partition('.')[0]}.{{{suffixes}}}"


def _tell_failures(result: SweepResult) -> None:
    failures = result.failures
    print(f"\n{len(failures)} samples failed; they are asked again when the command is repeated:", file=sys.stderr)
    for failure in failures[:SHOWN_FAILURES]:
        where = f"{failure.model} {failure.benchmark} sample {failure.index}"
        print(f"  {where} ({failure.cells} cells): {failure.reason}", file=sys.stderr)
    if len(failures) > SHOWN_FAILURES:
        print(f"  and {len(failures) - SHOWN_FAILURES} more, each in its cell's predictions.jsonl", file=sys.stderr)


def _tell_lacks(found: Results) -> None:
    print(f"\n{len(found.lacks)} cells are incomplete; `retain run` answers what is missing.", file=sys.stderr)
    reasons = {
        (lack.cell.model, lack.cell.benchmark, index): reason
        for lack in found.lacks
        for index, reason in lack.reasons.items()
    }
    for (model, benchmark, index), reason in list(reasons.items())[:SHOWN_FAILURES]:
        print(f"  {model} {benchmark} sample {index} failed: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
