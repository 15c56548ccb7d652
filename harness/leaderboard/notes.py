"""What a reader must know to read a leaderboard's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.leaderboard.entry import Entry
from harness.tables.rows import BELOW, FLOORS, MISSING


def notes(
    entries: Sequence[Entry], scored: Mapping[str, str], left_out: Sequence[str] = (), *, micro: bool
) -> list[str]:
    """The notes of a leaderboard. `scored`: by benchmark how its score was made, where a reader must know. `left_out`:
    where a method is not defined.
    """
    found = []
    if micro:
        found.append(
            "Micro edition: small models on generated scenes. It shows how methods behave where the truth is known, "
            "and says nothing about a 7B model."
        )
    found += [
        "Image, Video, All (%): mean over the entry's benchmarks of score / score of vanilla, with its 95% interval "
        "(paired bootstrap over videos or images).",
        "Budget (%): visual tokens that an average layer of the language model works on, of all; entries within 2 "
        "points are one budget. Rank: by All (%), among the entries of one model, budget and set of benchmarks; bounds "
        "have none. Mean rank: of a method at a retention, over the models.",
        "Equivalent tokens: visual tokens worked on, mean over the language model's layers and the samples.",
        "TFLOPs (paper): of the visual tokens in the language model, by eq. 4 to 6 of arXiv 2506.01097, a multiply-add "
        "as one operation; of the choosing only its compressor's is counted; mean over samples.",
    ]
    below = {floor for entry in entries for found in entry.preservation.values() for floor in found.below}
    found += [
        f"{BELOW}{letter}: below {floor} at the same model and retention, over the same benchmarks."
        for floor, letter in FLOORS.items()
        if floor in below
    ]
    absent = sorted({entry.model for entry in entries if entry.parameters is None})
    if absent:
        found.append(f"No parameters of {', '.join(absent)}: the checkpoint is not on this machine.")
    counted = [entry for entry in entries if entry.equivalent_tokens is not None]
    unknown = sorted({entry.label for entry in counted if entry.tflops is None})
    if unknown:
        found.append(f"No TFLOPs of {', '.join(unknown)}: that convention has no term for what choosing costs there.")
    if not all(entry.complete for entry in entries):
        found.append(
            "incomplete (n of N): only n of N samples have an answer, and a verdict where a judge scores, so no score "
            "and no preservation is given."
        )
    by_note: dict[str, list[str]] = {}
    for name, note in scored.items():
        by_note.setdefault(note, []).append(name)
    found += [f"{', '.join(names)}: {note}." for note, names in by_note.items()]
    return found + [f"{MISSING}: {sentence}." for sentence in left_out]
