"""`retain compressor`: from a model and data to a compressor for it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.closing import braced
from model_wrappers.errors import UserError

if TYPE_CHECKING:
    from harness.compressor.collect import Collected
    from harness.compressor.sources import Kind
    from harness.compressor.sources.splits import TestSplits
    from harness.compressor.train import Settings
    from harness.scoring.judge import JudgeConfig

FAILED = 3
SHOWN_FAILURES = 20
MAX_VISUAL = 1500
"""Visual tokens of a prompt, the paper's budget."""
BENCHMARKS = Path("results/data")
"""Where `retain run` keeps the data of the micro benchmarks."""

EpochsOption = Annotated[int, typer.Option(help="passes over the training samples")]
SeedOption = Annotated[int, typer.Option(help="of the first weights and of the order of samples")]
ScaleOption = Annotated[str, typer.Option(help="raw, the paper's, or mean: attention divided by its mean")]
PrecisionOption = Annotated[str | None, typer.Option(help="float32 or bf16 (default: bf16 on a GPU, else float32)")]

app = typer.Typer(name="compressor", no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def _commands() -> None:
    """Collect a training set from a model's own right answers, and what is made of it."""


@app.command()
def collect(
    model: Annotated[str, typer.Option(help="a model's name (see `retain list`) or checkpoint folder")],
    data: Annotated[Path, typer.Option(help="folder with the published data sets, or a .jsonl file of your own")],
    out: Annotated[Path, typer.Option(help="folder of the training set; an unfinished one is gone on with")],
    mix: Annotated[str | None, typer.Option(help="video or image (default: what --data holds)")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="only N samples of each source")] = None,
    seed: Annotated[int, typer.Option(help="of the choice of samples")] = 0,
    max_visual: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="about how many visual tokens a prompt is to have: pixels, or frames, are lowered or raised to it "
            f"(default: the model's own settings, lowered to {MAX_VISUAL:,})",
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="of a video (default: the model's)")] = None,
    target: Annotated[str, typer.Option(help="what relevance explains: logit, margin or logprob")] = "logit",
    clamp: Annotated[bool, typer.Option("--clamp/--no-clamp", help="relevance: negatives of a head become 0")] = True,
    head_weights: Annotated[str, typer.Option(help="relevance: grad, or mean (attention alone)")] = "grad",
    judge: Annotated[str, typer.Option(help="of open answers: exact, or an OpenAI-compatible URL")] = "exact",
    judge_model: Annotated[str | None, typer.Option(help="the judge's name at that URL")] = None,
    judge_key_env: Annotated[
        str, typer.Option(help="environment variable with the judge's key; '' for a server that wants none")
    ] = "OPENAI_API_KEY",
    benchmarks: Annotated[
        Path | None,
        typer.Option(
            help="folder of the benchmarks whose test videos and pictures are refused (default: results/data, if there)"
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="processes (default: one a GPU)")] = None,
) -> None:
    """Ask a model and keep, of what it answers right, first-layer attention and exact relevance."""
    from harness.models import model_info
    from model_wrappers.registry import method

    if mix not in (None, "image", "video"):
        raise UserError(f"--mix {mix}: allowed are video and image")
    if benchmarks is not None and not benchmarks.is_dir():
        raise UserError(f"--benchmarks {benchmarks}: there is no such folder")
    model_info(model)
    if benchmarks is None and BENCHMARKS.is_dir():
        benchmarks = BENCHMARKS
    relevance: dict[str, Any] = {"target": target, "clamp": clamp, "head_weights": head_weights}
    method("relevance", **relevance)
    from harness.compressor import collect as collecting
    from harness.compressor.grading import is_open
    from harness.sweep.progress import for_stream

    options = collecting.Options(
        model=model,
        data=data,
        out=out,
        benchmarks=benchmarks,
        mix=mix,  # type: ignore[arg-type]
        limit=limit,
        seed=seed,
        max_visual=max_visual or MAX_VISUAL,
        raised=max_visual is not None,
        frames=frames,
        relevance=relevance,
        judge=_judge(judge, judge_model, judge_key_env, out / "judge"),
        workers=workers,
    )
    info, samples, taken, tests = collecting.plan(options)
    for sentence in [sentence for each in taken for sentence in each.sentences()]:
        print(sentence)
    _tell_tests(tests, taken[0].source.media)
    if judge == "exact" and (opens := sum(map(is_open, samples))):
        print(
            f"retain: {opens:,} of {len(samples):,} samples have open answers, of which --judge exact keeps only those "
            "that are the reference word for word, hardly any of a free-form reference: pass --judge URL --judge-model "
            "NAME to have them judged",
            file=sys.stderr,
        )
    sys.stdout.flush()
    with for_stream() as progress:
        done = collecting.collect(options, info, samples, taken, tests, progress)
    _tell(done, out)
    if done.failures or done.lost:
        raise typer.Exit(FAILED)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="a training set, made by `retain compressor collect`")],
    out: Annotated[Path, typer.Option(help="folder of the compressor; a stopped training there is gone on with")],
    epochs: EpochsOption = 100,
    seed: SeedOption = 0,
    input_scale: ScaleOption = "raw",
    patience: Annotated[
        int | None, typer.Option(metavar="N", help="stop after N epochs without a lower held-out loss (default: never)")
    ] = None,
    precision: PrecisionOption = None,
) -> None:
    """Train a compressor, measure it on the videos or images held out, and write it with its card."""
    settings = _settings(epochs, seed, input_scale, precision, patience)
    from harness.compressor import publish
    from harness.compressor.opened import Data
    from harness.compressor.tables import score_table, sentences

    opened = Data.open(data)
    command = _command("train", data=data, out=out, **_options(settings), patience=patience)
    made = publish.make(
        opened.pairs, settings, out, mllm=opened.mllm, media=opened.media, data=opened.about(), command=command
    )
    if made is None:
        print(f"{out} holds the compressor of this training already")
        return
    print(f"{score_table(made)}\n\n{sentences(made)}\n\nWritten: {out}")


@app.command()
def evaluate(
    compressor: Annotated[str, typer.Option(help="folder or hub id of a compressor")],
    data: Annotated[Path, typer.Option(help="a training set, of which the held-out samples are taken")],
    out: Annotated[Path, typer.Option(help="folder of the table and its numbers")] = Path("results/runs/compressor"),
) -> None:
    """Compare a compressor with exact relevance on the videos or images held out, beside what needs no training."""
    from harness.compressor.evaluate import evaluate as measure
    from harness.compressor.opened import Data
    from harness.compressor.tables import write_scores
    from model_wrappers.compressor import Compressor
    from model_wrappers.compressor.hub import WEIGHTS, locate

    net = Compressor.from_pretrained(compressor)
    opened = Data.open(data)
    if net.mllm != opened.mllm:
        raise UserError(
            f"the compressor in {compressor} is {net.mllm}'s, and the samples in {data} are {opened.mllm}'s"
        )
    if net.media != opened.media:
        raise UserError(
            f"the compressor in {compressor} is for {net.media} prompts, and the samples in {data} are of "
            f"{opened.media} prompts"
        )
    command = _command("evaluate", compressor=compressor, data=data)
    found, weights = measure(net, opened.sides[1]), locate(compressor) / WEIGHTS
    text, paths = write_scores(found, net, weights, opened.about(), out, command)
    print(f"{text}\nWritten: {', '.join(map(str, paths))}")


@app.command()
def ablate(
    name: Annotated[
        str,
        typer.Argument(
            help="depth, kernel, channels, zeroed, size, length, head_weights, clamp, target or recipe; or taught: by "
            "the answers that the compressors leave, which runs the micro video benchmarks"
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="a training set, repeated for several models; length: of short and of long inputs; "
            "head_weights, clamp, target: one for each value; taught: one for each teacher of each model"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder of the table and its numbers; what is there is not made again")],
    epochs: EpochsOption = 100,
    seed: SeedOption = 0,
    input_scale: ScaleOption = "raw",
    precision: PrecisionOption = None,
) -> None:
    """Train compressors that differ in one thing, and put them into one table."""
    settings = _settings(epochs, seed, input_scale, precision, None)
    from harness.compressor import ablate, taught

    command = _command(f"ablate {name}", data=data, out=out, **_options(settings))
    if name == taught.NAME:
        table = taught.run(data, out, settings, command)
        print(f"Written: {braced([table.with_suffix(suffix) for suffix in ('.yaml', *taught.KEPT)])}")
        return
    table = ablate.run(name, data, out, settings, command)
    print(f"{table.read_text('utf-8')}\nWritten: {table}, {table.with_suffix('.json')}")


def _settings(epochs: int, seed: int, input_scale: str, precision: str | None, patience: int | None) -> Settings:
    """UserError where one of them cannot be."""
    from harness.compressor.train import Settings, best_device

    chosen: Any = precision or ("bf16" if best_device().type == "cuda" else "float32")
    scale: Any = input_scale
    return Settings(epochs=epochs, seed=seed, input_scale=scale, precision=chosen, patience=patience)


def _options(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("epochs", "seed", "input_scale", "precision")}


def _command(name: str, **options: Any) -> str:
    """The command that does it again, every option said but those that are None."""
    words = ["retain", "compressor", *name.split()]
    for option, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [] if each is None else [f"--{option.replace('_', '-')}", str(each)]
    return shlex.join(words)


def _judge(said: str, model: str | None, key_env: str, cache: Path) -> JudgeConfig | None:
    """None for `exact`. UserError where it is neither that nor a judge that could be asked."""
    if said == "exact":
        if model is not None:
            raise UserError(f"--judge-model {model} needs --judge with the URL where it is asked")
        return None
    if not said.startswith(("http://", "https://")):
        raise UserError(f"--judge {said}: allowed are exact and a URL such as https://api.openai.com/v1")
    if model is None:
        raise UserError(f"--judge {said} needs --judge-model, the name of the model to ask there")
    from harness.scoring.judge import Judge, JudgeConfig

    config = JudgeConfig(said, model, key_env or None, cache=cache)
    Judge(config)  # has its key, before hours of answering
    return config


def _tell_tests(tests: TestSplits, media: Kind) -> None:
    """Whose test videos or pictures are refused, and whose cannot be, for lack of the file that names them."""
    said = ", ".join(f"{count:,} of {name}" for name, count in tests.counts().items())
    print(f"Test videos and pictures refused: {said or 'none known'}")
    if unknown := tests.unknown(media):
        print(
            f"retain: the test splits of {', '.join(unknown)} lie neither in --data nor in --benchmarks: none of their "
            f"{media}s is refused",
            file=sys.stderr,
        )


def _tell(done: Collected, out: Path) -> None:
    """What is kept, what is not and why, and what failed."""
    counts = dict(done.counts)
    asked, kept = counts.pop("asked"), counts.pop("kept")
    dropped = "".join(f", {count:,} {reason}" for reason, count in counts.items())
    print(f"\n{out}: {kept:,} of {asked:,} samples asked are kept{dropped}")
    for name, (asked_of_it, kept_of_it) in {**done.sources, **done.kinds}.items():
        print(f"  {name}: {kept_of_it:,} of {asked_of_it:,}")
    if done.failures:
        print(
            f"\n{len(done.failures)} samples failed; they are asked again when the command is repeated:",
            file=sys.stderr,
        )
        for name, reason in list(done.failures.items())[:SHOWN_FAILURES]:
            print(f"  {name}: {reason}", file=sys.stderr)
        if len(done.failures) > SHOWN_FAILURES:
            print(f"  and {len(done.failures) - SHOWN_FAILURES} more, in {out / 'samples.jsonl'}", file=sys.stderr)
    for what in done.lost:
        print(f"\nUnfinished: {what}; repeat the command to go on.", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    status = app(args=arguments, prog_name="retain compressor", standalone_mode=False)
    return status if isinstance(status, int) else 0
