"""A compressor as a small folder that can be used, checked and handed on.

model.safetensors, config.json    what `Compressor.from_pretrained` reads
README.md                         the card: data, settings, held-out scores, version, command
training.json                     the same for programs
curves.csv, curves.png            losses by epoch
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness import identity
from harness.compressor.batches import teachable
from harness.compressor.dataset import Pair
from harness.compressor.evaluate import Evaluation, evaluate
from harness.compressor.split import ONE_IN, split
from harness.compressor.state import State
from harness.compressor.tables import score_table, sentences
from harness.compressor.train import BATCH, Epoch, Fitted, Media, Settings, best_device, fit, key
from harness.disk import disk_errors, write_atomically
from model_wrappers.compressor import Compressor
from model_wrappers.errors import UserError

CHOSEN = "gain on the held-out samples, which so choose the epoch too: their scores above flatter it"
RECORD, CARD, CURVES, STATE = "training.json", "README.md", "curves.csv", ".training.safetensors"


def make(
    pairs: Sequence[Pair],
    settings: Settings,
    out: Path,
    *,
    mllm: str,
    media: Media,
    data: Mapping[str, Any],
    command: str,
    anew: bool = False,
) -> Evaluation | None:
    """Trains a compressor, measures it on the held-out samples and publishes it; a stopped training goes on.

    Args:
        pairs: all samples; which are held out is decided here (`split`).
        out: folder, made where it is missing.
        mllm, media: what the compressor is for.
        data: what the samples are, in words, for the card.
        command: what was typed.
        anew: whether another compressor that lies there is replaced.

    Returns:
        The held-out scores; None where `out` holds the result of this very training already.

    Raises:
        UserError: no two videos or images with a label, or another compressor in `out`.
        StoreError: the disk refuses.
    """
    usable = teachable(pairs)
    training, held_out = split(usable)
    wanted = key(training, held_out, settings, mllm, media)
    if (out / RECORD).is_file() and _record(out)["key"] == wanted:
        return None
    if not anew and any((out / name).exists() for name in (RECORD, "config.json", "model.safetensors")):
        raise UserError(f"--out {out}: another compressor lies there; give a folder of its own, or remove it")
    state = State(out / STATE, wanted, anew=anew)
    fitted = fit(training, held_out, settings, mllm=mllm, media=media, state=state)
    scores = evaluate(fitted.net, held_out, zeroed=settings.zeroed)
    record = {
        "key": wanted,
        "data": {**data, "samples": _counts(pairs, usable, training, held_out)},
        "epochs_done": len(fitted.curves),
        "weights_of_epoch": fitted.epoch,
        "curves": [list(epoch) for epoch in fitted.curves],
        "held_out": scores.content(),
        "command": command,
        "made_with": made_with(),
    }
    (out / RECORD).unlink(missing_ok=True)  # from here on the folder is not finished
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        fitted.net.save_pretrained(out)
    write_atomically(out / CURVES, _csv(fitted.curves))
    _plot(fitted.curves, f"{mllm}, {media}", out / "curves.png")
    write_atomically(out / CARD, card(fitted.net, settings, fitted, scores, record))
    write_atomically(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    state.clear()
    return scores


def made_with() -> dict[str, str | None]:
    """Versions, the commit where this is run from a repository of its own, and the processor."""
    import torch

    device = torch.cuda.get_device_name() if best_device().type == "cuda" else "CPU"
    return {**identity.origin(), "torch": torch.__version__, "device": device}


def card(net: Compressor, settings: Settings, fitted: Fitted, scores: Evaluation, record: Mapping[str, Any]) -> str:
    """README.md, with the front matter that the hub reads."""
    chosen = {
        "label": f"lowest {settings.zeroed:.0%} of the relevance set to zero, the rest divided by its sum",
        "loss": "KL(label || prediction)",
        "optimiser": f"Adam at its defaults, batches of {BATCH}",
        "epochs": f"{record['epochs_done']} of {settings.epochs}, weights of epoch {fitted.epoch}",
        "early stopping": "off" if settings.patience is None else f"after {settings.patience} epochs without {CHOSEN}",
        "input scale": settings.input_scale,
        "channels, kernel": f"{'-'.join(map(str, net.channels))}, {net.kernel}",
        "parameters": f"{net.n_parameters():,}",
        "precision": settings.precision,
        "seed": settings.seed,
        "held out": f"one video or image in {ONE_IN}, by the digest of its name",
    }
    made = {name: value or "not run from its repository" for name, value in record["made_with"].items()}
    return f"""---
library_name: vlm-retain
tags: [visual-token-compression]
---
# Compressor for {net.mllm}, {net.media} prompts

Predicts, from the first-layer attention of the instruction to each visual token, how relevant that token is to the
answer (arXiv 2506.01097, section 3.3), so that the others can be left out before the language model runs. It serves
{net.mllm} and no other model.

    with compress(model, "cnn", keep=0.25, compressor="this folder or its hub id"):
        model.generate(**inputs)

## Held-out scores

{score_table(scores)}

{sentences(scores)}

## Data

{_listed(record["data"])}

## Training

{_listed(chosen)}

Losses by epoch: curves.csv, curves.png.

## Made with

{_listed({**made, "command": f"`{record['command']}`"})}
"""


def _record(out: Path) -> dict[str, Any]:
    try:
        found = json.loads((out / RECORD).read_text("utf-8"))
        return {**found, "key": found["key"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / RECORD} cannot be read ({error}): give another folder, or remove it") from error


def _counts(
    pairs: Sequence[Pair], usable: Sequence[Pair], training: Sequence[Pair], held_out: Sequence[Pair]
) -> dict[str, Any]:
    lengths = sorted(len(pair.attention) for pair in usable)
    return {
        "training": f"{len(training):,} about {len({pair.group for pair in training}):,} videos or images",
        "held out": f"{len(held_out):,} about {len({pair.group for pair in held_out}):,}",
        "left out because no token is relevant": len(pairs) - len(usable),
        "visual tokens": f"{lengths[0]:,} to {lengths[-1]:,}, median {lengths[len(lengths) // 2]:,}",
    }


def _listed(content: Mapping[str, Any], prefix: str = "") -> str:
    """A nested mapping as a Markdown table of two columns."""
    rows = list(_rows(content, prefix))
    return tabulate(rows, headers=["what", "value"], tablefmt="github", disable_numparse=True)


def _rows(content: Mapping[str, Any], prefix: str) -> Any:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name}: ")
        elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            for number, part in enumerate(value, start=1):
                yield from _rows(part, f"{prefix}{name} {number}: ")
        else:
            yield f"{prefix}{name}", str(value).replace("|", "\\|").replace("\n", " ")


def _csv(curves: Sequence[Epoch]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *Epoch._fields])
    writer.writerows([number, *epoch] for number, epoch in enumerate(curves, start=1))
    return text.getvalue()


def _plot(curves: Sequence[Epoch], title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = range(1, len(curves) + 1)
    axes.plot(epochs, [epoch.train_kl for epoch in curves], label="training")
    axes.plot(epochs, [epoch.held_out_kl for epoch in curves], label="held out")
    axes.set(title=title, xlabel="epoch", ylabel="KL(label || prediction), nats")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    with disk_errors(path):
        figure.savefig(path, dpi=120, metadata={"Software": None})
