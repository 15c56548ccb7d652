"""`retain micro`: makes the embedded default from nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

CHECKPOINT = Path(__file__).parent / "checkpoints" / "micro-qwen2-vl"
STEPS, SAMPLES, EPOCHS, SEED = 5200, 3000, 40, 0

app = typer.Typer(name="micro", no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Out = Annotated[Path, typer.Option(help="checkpoint folder")]


@app.command()
def data(root: Annotated[Path, typer.Option(help="where the data folder goes")] = Path("results/data")) -> None:
    """Write the micro editions of the benchmarks (also done by `retain run` on first use)."""
    from harness.micro.editions import ensure

    print(ensure(root))


@app.command()
def train(out: Out = CHECKPOINT, steps: int = STEPS, seed: int = SEED) -> None:
    """Train micro-qwen2-vl from nothing (about 45 minutes on two CPU cores). Stopped, it goes on where it was."""
    import torch

    from harness.micro.model import new_model, new_processor
    from harness.micro.resume import Resume
    from harness.micro.tokenizer import build_tokenizer
    from harness.micro.training import train as run

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = new_model(tokenizer, seed)
    state = Resume(Path("results/runs/micro-training.safetensors"))
    run(model, tokenizer, steps=steps, seed=seed + 1, resume=state)
    state.clear()
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    new_processor(tokenizer).save_pretrained(out)


@app.command()
def teach(out: Out = CHECKPOINT, samples: int = SAMPLES, epochs: int = EPOCHS, seed: int = SEED) -> None:
    """Train its compressor from the model's own relevance (about 5 minutes)."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    from harness.micro.compressor import collect, fit

    model = Qwen2VLForConditionalGeneration.from_pretrained(out, dtype=torch.float32).eval()
    processor = Qwen2VLProcessor.from_pretrained(out)
    attentions, relevances, asked = collect(model, processor, samples=samples, seed=seed)
    print(f"{samples} of {asked} questions were answered right and kept", file=sys.stderr)
    net = fit(attentions, relevances, mllm=out.name, epochs=epochs, seed=seed)
    net.save_pretrained(out / "compressor-video")


@app.command()
def build() -> None:
    """All of it: the model, its compressor, the data."""
    train()
    teach()
    data()


@app.command()
def report(
    store: Annotated[Path, typer.Option(help="where `make table3` keeps its answers")] = Path("results/runs"),
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("results/micro"),
) -> None:
    """Write results/micro from a finished `make table3`: the table, and whether each bar holds."""
    from harness import experiments, plan, results
    from harness.micro import report as reporting
    from harness.micro.editions import ensure
    from harness.store import Store
    from model_wrappers.errors import UserError

    experiment, folder, kept = experiments.load("table3", "micro"), ensure(Path("results/data")), Store(store)
    data = plan.Data(experiment, folder)
    found = results.collect(plan.make(experiment, data, kept), data, kept)
    if found.lacks:
        raise UserError(f"{len(found.lacks)} cells of table3 are incomplete in {store}: run `make table3` first")
    results.write(found, store / "tables", "table3")
    for bar in reporting.write(found.table, store / "tables", folder, out):
        print(f"{'holds' if bar.holds else 'FAILS'}  {bar.name}: {bar.measured} (wanted: {bar.wanted})")


def main(arguments: list[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    status = app(args=arguments, prog_name="retain micro", standalone_mode=False)
    return status if isinstance(status, int) else 0
