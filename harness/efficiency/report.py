"""The file of measurements, and its table. Both are made of the entries that `summary.as_json` writes, and of no more.

A file holds several measurements: one that is taken again, of the same model on the same input and device, replaces
the old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.disk import write_atomically
from harness.tables.render import pipe_table
from harness.tables.rows import LOSS, MISSING, ratio
from model_wrappers.errors import UserError

Entry = Mapping[str, Any]
"""One measurement."""

HEAD = (
    "Method",
    "Retention",
    "Kept (%)",
    "Equivalent tokens",
    "Attention",
    "Vision (ms)",
    "Scoring (ms)",
    "Prefill (ms)",
    "Scoring share (%)",
    "Speed-up",
    "By FLOPs",
    "Reached (%)",
    "First token",
    "Decode (ms)",
    "Decode speed-up",
    "KV (MiB)",
    "Peak (MiB)",
)
NAMED = HEAD.index("Attention") + 1
"""Columns that say what a row is. Those after them are what was measured."""
NOTES = (
    "Medians of {repeats} rounds, in each of which every row had its turn; [lowest, highest] of the rounds' ratios.",
    "Retention is the ratio asked for; Kept: of the visual tokens, those left after the last cut. Equivalent tokens: "
    "visual tokens worked on, mean over the LLM's layers. Rows have the same budget where these are equal.",
    "Speed-up: vanilla's scoring and prefill / the row's, its scoring included. "
    f"Below 1 ({LOSS}) the row is slower than vanilla.",
    "By FLOPs: the same ratio by the paper's count of the visual tokens (eq. 4 to 6); Reached: Speed-up / By FLOPs.",
    "Scoring share: scoring / vanilla's prefill.",
    "First token: speed-up from pixels to the first token, the vision encoder included. Decode: of each further token, "
    "{decoded} in an answer.",
    "KV: keys and values of the whole prompt after the prefill, {text} tokens of text included. Peak: the most held "
    "above the weights and the encoded prompt.",
)


OTHERS = 0.5
"""A load this much above the cores is told: what is measured keeps all of them busy, and is in the load itself."""


def read(path: Path) -> list[Entry]:
    """The measurements of a file; none where there is no file.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        return list(content["measurements"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no file of `retain efficiency`: {error!r}") from error


def add(entries: Sequence[Entry], entry: Entry) -> list[Entry]:
    """The measurements with a new one, in the place of an older one of the same."""
    made = list(entries)
    same = [place for place, old in enumerate(made) if _about(old) == _about(entry)]
    if same:
        made[same[0]] = entry
    else:
        made.append(entry)
    return made


def write(entries: Sequence[Entry], path: Path) -> list[Path]:
    """Writes the measurements as JSON to `path`, and beside it their tables (.md) and plot (.png, .svg).

    Raises:
        UserError: the folder cannot be written.
    """
    from harness.efficiency.plot import draw

    paths = [path, path.with_suffix(".md"), *draw(entries, path)]
    write_atomically(path, json.dumps({"measurements": _rounded(list(entries))}, indent=1) + "\n")
    write_atomically(paths[1], "\n".join(table(entry) for entry in entries))
    return paths


def title(entry: Entry) -> str:
    """Model, input and machine of a measurement."""
    given, layers = entry["input"], entry["layers"]
    model = entry["model"].rstrip("/").rpartition("/")[2]
    if entry["weights"] == "random":
        model += ", random weights"
    if layers["language_model"] < layers["of"]:
        model += f", {layers['language_model']} of {layers['of']} layers"
    return f"{model}: {given['visual_tokens']} visual tokens ({given['media']}, {given['said']})"


def hardware(entry: Entry) -> str:
    """What it was measured on."""
    machine = entry["machine"]
    versions = machine["versions"]
    cpu = f"{machine['cpu']}, {machine['torch_threads']} of {machine['cores']} cores"
    where = cpu if entry["device"] == "CPU" else f"{entry['device']}, CUDA ({cpu})"
    return f"{where}; {entry['dtype']}, torch {versions['torch']}, transformers {versions['transformers']}"


def table(entry: Entry) -> str:
    """One measurement as Markdown: title, table, footnotes."""
    lines = [_line(variant) for variant in entry["variants"]]
    body = pipe_table(HEAD, lines, [name not in ("Method", "Attention") for name in HEAD])
    notes = [hardware(entry) + "."]
    if (vision := entry["vision_layers"])["vision_encoder"] < vision["of"]:
        notes.append(f"The vision encoder has {vision['vision_encoder']} of its {vision['of']} layers.")
    if (load := _load(machine := entry["machine"])) > machine["cores"] + OTHERS:
        notes.append(
            f"The machine had other work to do (load {load:.1f} on {machine['cores']} cores): times are "
            "longer than they would be, and the ratios' spread is wide."
        )
    said = {"repeats": entry["repeats"], "decoded": entry["decoded_tokens"], "text": entry["text_tokens"]}
    notes += [note.format(**said) for note in NOTES]
    lacking = {variant["label"]: variant["lacking"] for variant in entry["variants"] if "lacking" in variant}
    notes += [f"{label} ({MISSING}): {why}." for label, why in lacking.items()]
    notes.append(f"Made by `{entry['command']}`.")
    return "\n".join([f"**{title(entry)}**", "", body, "", *(f"- {note}" for note in notes)]) + "\n"


def _load(machine: Mapping[str, Any]) -> float:
    """The larger of the loads before and after; older measurements know the first alone."""
    return max(machine[name] for name in ("load", "load_after") if name in machine)


def _line(variant: Mapping[str, Any]) -> list[str]:
    asked = [variant["label"], ratio(variant["keep"])]
    if "lacking" in variant:
        return [*asked, MISSING, MISSING, variant["attention"], *[MISSING] * (len(HEAD) - NAMED)]
    kept, worked = variant["kept"] / variant["visual_tokens"], fmean(variant["visual_tokens_by_layer"])
    seconds, against = variant["seconds"], variant["vanilla_over_this"]
    return [
        *asked,
        f"{100 * kept:.1f}",
        f"{worked:.1f}",
        variant["attention"],
        _milli(seconds["vision"]),
        _milli(seconds["scoring"]),
        _milli(seconds["prefill"]),
        _number(variant["scoring_over_vanilla_prefill"], 100, 1),
        _against(against["llm"]),
        _number(variant["flops_ratio"], 1, 2),
        _number(variant["reached"], 100, 0),
        _against(against["first"]),
        _milli(seconds["decode"]),
        _against(against["per_token"]),
        _number(variant["kv_bytes"], 2**-20, 1),
        _number(variant["peak_bytes"], 2**-20, 1),
    ]


def _against(found: Mapping[str, float]) -> str:
    shown = f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{shown} {LOSS}" if found["median"] < 1 else shown


def _milli(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _number(value: float | None, scale: float, digits: int) -> str:
    return MISSING if value is None else f"{scale * value:.{digits}f}"


def _about(entry: Entry) -> Any:
    return [entry[name] for name in ("model", "weights", "layers", "input", "device", "dtype", "attention")]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
