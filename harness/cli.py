"""The command `retain`. Nothing heavy is imported before a command needs it.

Exit status: 0 done; 1 `doctor` found something missing; 2 a mistake that the user can mend, told in one sentence; 3
done, but some samples failed or cells are incomplete; 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by the end of its
terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.closing import FAILED, MISTAKEN, STOPPED, braced, refused, stopped, tell_failures, tell_lacks
from harness.data.command import data
from harness.disk import Refused, check_folder, refusal
from harness.doctor.command import doctor
from harness.flops.command import flops
from harness.leaderboard.command import leaderboard
from harness.opening import open_experiment, rehearse, unpublished
from harness.options import (
    DEFAULT_STORE,
    DataOption,
    ExperimentArgument,
    JudgeLimitOption,
    LimitOption,
    MatchOption,
    ProfileOption,
    RayOption,
    StoreOption,
    WorkersOption,
)
from harness.show.command import show
from harness.signals import interrupting
from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from harness.plan import Data
    from harness.store import Store
    from harness.sweep import SweepResult

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
        print(rehearse(experiment, profile, limit, data, store, match), end="")
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
    chosen, opened = open_experiment(experiment, profile, limit, data, store, match)
    check_folder(store, "--store")  # before the plan, which takes long; after mistakes, which leave no folder
    kept = Store(store)
    plan = plans.make(chosen, opened, kept)
    for sentence in unpublished(chosen, opened.folder):
        print(f"retain: {sentence}; scores may not be those of the benchmark", file=sys.stderr)
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
        tell_failures(result)
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

    chosen, opened = open_experiment(experiment, profile, limit, data, store, match)
    kept = Store(store)
    found = results.collect(plans.make(chosen, opened, kept), opened, kept)
    print(to_markdown(found.table), end="")
    if found.lacks:
        tell_lacks(found.lacks)
        raise typer.Exit(FAILED)


@app.command()
def figure(
    experiment: ExperimentArgument,
    profile: ProfileOption = "micro",
    limit: LimitOption = None,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Draw an experiment's averages over the visual tokens that they took into STORE/figures; nothing is asked."""
    from harness import plan as plans
    from harness import results
    from harness.figures import draw, points
    from harness.store import Store

    chosen, opened = open_experiment(experiment, profile, limit, data, store)
    check_folder(store, "--store")
    kept = Store(store)
    plan = plans.make(chosen, opened, kept)
    found = results.collect(plan, opened, kept)
    drawn = points.points(found.table, points.layer_means(plan, kept))
    if not drawn:
        raise UserError(f"no row of {chosen.name} is complete yet, so there is nothing to draw; `retain run` asks them")
    print(f"Written: {braced(draw.write(found.table.title, drawn, store / 'figures', chosen.name))}")
    if found.lacks:
        tell_lacks(found.lacks)
        raise typer.Exit(FAILED)


app.command()(leaderboard)


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


app.command()(show)


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
            print(f"\nretain: {stopped(arguments)}", file=sys.stderr)
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
        print(f"retain: {error}{refused(arguments) if isinstance(error, Refused) else ''}", file=sys.stderr)
        return MISTAKEN
    except OSError as error:  # of a library that writes or reads where we did not foresee it
        if (said := refusal(error)) is None:
            raise
        print(f"retain: {said}{refused(arguments)}", file=sys.stderr)
        return MISTAKEN
    except SystemExit as leaving:  # a command that was handed over to may end the process by itself
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except (KeyboardInterrupt, typer.Abort):
        return STOPPED
    return status if isinstance(status, int) else 0  # typer makes STOPPED of Ctrl-C


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
    print(f"\nWritten: {braced(paths)}")
    for reason in account.stopped.values():
        print(f"retain: not all is judged: {reason}", file=sys.stderr)
    return not found.lacks


if __name__ == "__main__":
    sys.exit(main())
