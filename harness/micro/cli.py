"""`retain micro`: makes the embedded default from nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.disk import check_folder
from model_wrappers.errors import UserError

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SAMPLES, EPOCHS, SEED = 3000, 40, 0
MODELS = ("micro-qwen2-vl", "micro-llava-onevision", "micro-vila")
"""The names of `harness.micro.families`, without torch."""
FIRST = MODELS[0]
"""Trained from nothing; the others start from its language model."""

app = typer.Typer(name="micro", no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Model = Annotated[str, typer.Argument(help="micro-qwen2-vl, micro-llava-onevision or micro-vila")]
Out = Annotated[Path, typer.Option(help="folder of the checkpoints")]
Seed = Annotated[int, typer.Option(help="of the first weights and of the scenes drawn")]


@app.callback()
def _commands() -> None:
    """Make the embedded default from nothing: its models, their compressors, the data, the report of its results."""


@app.command()
def data(root: Annotated[Path, typer.Option(help="where the data folder goes")] = Path("results/data")) -> None:
    """Write the micro editions of the benchmarks (also done by `retain run` on first use)."""
    from harness.micro.editions import ensure

    print(ensure(root))


@app.command()
def train(model: Model, out: Out = CHECKPOINTS, seed: Seed = SEED) -> None:
    """Train one micro model on two CPU cores: micro-qwen2-vl from nothing (45 minutes), the others from its language
    model (12 minutes each). Stopped, it goes on where it was."""
    _check(model)
    check_folder(out, "--out")
    import torch

    from harness.micro import families
    from harness.micro.resume import Resume
    from harness.micro.training import FROM_NOTHING, GROWN
    from harness.micro.training import train as run

    family = families.family(model)
    tokenizer = family.tokenizer()
    torch.manual_seed(seed)
    made = family.new_model(tokenizer, seed)
    state = Resume(Path(f"results/runs/{model}-training.safetensors"))
    run(family, made, tokenizer, FROM_NOTHING if model == FIRST else GROWN, seed=seed + 1, resume=state)
    made.half().save_pretrained(out / model)
    family.processor(tokenizer).save_pretrained(out / model)
    state.clear()  # not before its end is kept


@app.command()
def teach(
    model: Model,
    out: Out = CHECKPOINTS,
    samples: Annotated[int, typer.Option(min=1, help="questions answered right, to learn from")] = SAMPLES,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the training samples")] = EPOCHS,
    seed: Seed = SEED,
) -> None:
    """Train its compressors, one for videos and one for images, from the model's own relevance (5 minutes each)."""
    _check(model)
    if not (out / model).is_dir():
        raise UserError(f"--out {out}: {model} is not in it; `retain micro train {model}` makes it")
    check_folder(out / model, "--out")
    from harness.compressor.tables import sentences
    from harness.micro import families
    from harness.micro.compressor import teach as run

    family = families.family(model)
    loaded, processor = family.load(out / model)
    kinds: tuple[Literal["video", "image"], ...] = ("video", "image")
    for media in kinds:
        folder = out / model / f"compressor-{media}"
        scores, asked = run(family, loaded, processor, folder, media=media, samples=samples, epochs=epochs, seed=seed)
        print(f"{model}, {media}: {samples} of {asked} questions were answered right and kept", file=sys.stderr)
        print(
            f"{folder}:\n{sentences(scores)}" if scores else f"{folder} holds the compressor of this training already"
        )


@app.command()
def questions(
    out: Annotated[Path, typer.Option(help="folder of the JSONL file and what it names")],
    media: Annotated[str, typer.Option(help="video or image")] = "video",
    samples: Annotated[int, typer.Option(min=1, help="questions, one a scene")] = SAMPLES,
    seed: Annotated[int, typer.Option(help="of the scenes and what is asked about them")] = SEED,
) -> None:
    """Write questions about training scenes as files, for `retain compressor collect --data`."""
    if media not in ("video", "image"):
        raise UserError(f"--media {media}: allowed are video, image")
    check_folder(out, "--out")
    from harness.micro.samples import write

    print(write(out, media=media, samples=samples, seed=seed))  # type: ignore[arg-type]


@app.command()
def build() -> None:
    """All of it: the models, their compressors, the data."""
    for model in MODELS:
        train(model)
        teach(model)
    data()


@app.command()
def report(
    store: Annotated[Path, typer.Option(help="where `make tables` keeps its answers")] = Path("results/runs"),
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("results/micro"),
) -> None:
    """Write results/micro: the finished tables, and whether each bar holds. First come `make tables` and `retain run`
    of bounds, matched, positions and teachers."""
    check_folder(out, "--out")
    from harness import experiments, plan, results
    from harness.micro import report as reporting
    from harness.micro.editions import ensure
    from harness.store import Store

    experiment, folder, kept = experiments.load("bounds", "micro"), ensure(Path("results/data")), Store(store)
    data = plan.Data(experiment, folder)
    found = results.collect(plan.make(experiment, data, kept), data, kept)
    if found.lacks:
        raise UserError(f"{len(found.lacks)} cells of bounds are incomplete in {store}: run `retain run bounds` first")
    for bar in reporting.write(reporting.accuracies(found.sources, kept), store / "tables", folder, out):
        verdict = "holds" if bar.holds else "FAILS"
        print(f"{verdict}  {bar.model}, {bar.name}: {bar.measured} (wanted: {bar.wanted})")


@app.command()
def differences(
    out: Annotated[Path, typer.Option(help="file to write")] = Path("results/micro/differences.json"),
) -> None:
    """Measure what the faults of VLMEvalKit's own LLaVA-OneVision class cost on the micro model (7 minutes)."""
    check_folder(out.parent, "--out")
    from harness.micro import differences as measuring
    from harness.micro.editions import ensure

    print(measuring.table(measuring.write(ensure(Path("results/data")), out)))


def _check(model: str) -> None:
    if model not in MODELS:
        raise UserError(f"no micro model {model!r}; known are {', '.join(MODELS)}")


def main(arguments: list[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    status = app(args=arguments, prog_name="retain micro", standalone_mode=False)
    return status if isinstance(status, int) else 0
