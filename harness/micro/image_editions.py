"""Micro editions of the image benchmarks, as TSV files in VLMEvalKit's formats (base64 PNG in the column `image`).

    LMUData/MME.tsv            pairs of yes/no questions about one image, answered yes and no
    LMUData/MMStar.tsv         four options
    LMUData/SEEDBench_IMG.tsv  four options
    LMUData/MMVet.tsv          open answers

The categories are those that the kit's metrics need, perception and reasoning, all six capabilities; what is asked is
the same few things about a scene, whatever its category is called.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.micro.items import PER_MEDIUM, QUESTIONS, Item
from harness.micro.prompts import IMAGE_FORMATS, LETTERS, as_asked
from harness.micro.questions import Question, questions
from harness.micro.scenes import CELL, COLORS, Scene, render, sample_scene

FORMATS = {"MME": "Y/N", "MMStar": "MCQ", "SEEDBench_IMG": "MCQ", "MMVet": "VQA"}
"""Benchmark -> how it asks, a key of IMAGE_FORMATS."""
SCALE = 2
"""Images are stored this many times larger than a scene is drawn: models take what they can."""

_MME_CATEGORIES = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
_MMSTAR_CATEGORIES = {
    "color": ("fine-grained perception", "attribute & celebrity recognition"),
    "kind": ("instance reasoning", "single-instance reasoning"),
    "where": ("coarse perception", "image scene and topic"),
}
_SEED_CATEGORIES = {"color": "Instance Attributes", "kind": "Instance Identity", "where": "Instance Location"}
_MMVET_CATEGORIES = {"color": "rec", "kind": "rec,know", "where": "ocr,spat", "yesno": "gen,math"}


def draw(name: str) -> list[Item]:
    """The questions of an edition, two an image, topics in turn. Same on every machine."""
    rng = np.random.default_rng([sum(name.encode()), len(name), 2027])
    form = FORMATS[name]
    options = IMAGE_FORMATS[form].options
    topics = ["color", "kind", "where"] + ([] if options else ["yesno"])
    items: list[Item] = []
    while len(items) < QUESTIONS:
        scene = sample_scene(rng, video=False, held_out=True, apart=True)
        image = f"{name.lower()}{len(items) // PER_MEDIUM:03d}"
        if name == "MME":
            chosen: list[Question] | None = _pair(scene, rng)
        else:
            wanted = [topics[(len(items) + i) % len(topics)] for i in range(PER_MEDIUM)]
            chosen = _first_of(questions(scene, rng), wanted)
        for question in chosen or []:
            given = tuple(question.options(rng, options)) if options else ()
            items.append(Item(image, scene, question, as_asked(form, question.text), given))
    return items


def _first_of(asked: Sequence[Question], topics: Sequence[str]) -> list[Question] | None:
    """One question a topic, or None where the scene has none on one of them."""
    found = [next((question for question in asked if question.topic == topic), None) for topic in topics]
    return None if None in found else [question for question in found if question is not None]


def _pair(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Is one thing what it is, and is it what it is not?"""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    right = thing.sights[0].color
    colors = list(COLORS)
    wrong = colors[(colors.index(right) + int(rng.integers(1, len(colors)))) % len(colors)]
    return [
        Question("yesno", f"is the {thing.kind} {color}", answer, thing.sights)
        for color, answer in ((right, "yes"), (wrong, "no"))
    ]


def write(name: str, folder: Path, items: list[Item]) -> list[Item]:
    """Writes the TSV of one benchmark; returns the items in the order of its index."""
    path = folder / "LMUData" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, str] = {}
    for number, item in enumerate(items):
        if item.medium not in pictures:
            pictures[item.medium] = _png(item.scene, seed=number)
    rows = [_ROWS[name](index, item) for index, item in enumerate(items)]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["index", "image", *rows[0]])
        for index, (item, row) in enumerate(zip(items, rows, strict=True)):
            key = f"v1_{index}" if name == "MMVet" else index
            table.writerow([key, pictures[item.medium], *row.values()])
    return items


def key(name: str, position: int) -> str:
    """The dataset's own index of the question at `position`, as text."""
    return f"v1_{position}" if name == "MMVet" else str(position)


def _png(scene: Scene, seed: int) -> str:
    from PIL import Image

    picture = Image.fromarray(render(scene, np.random.default_rng(seed))[0])
    picture = picture.resize((SCALE * scene.side * CELL,) * 2, Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    picture.save(sink, "PNG", optimize=True)
    return base64.b64encode(sink.getvalue()).decode()


def _mme(index: int, item: Item) -> dict[str, str]:
    question = IMAGE_FORMATS["Y/N"].wording(item.text, ())
    category = _MME_CATEGORIES[index // PER_MEDIUM % len(_MME_CATEGORIES)]
    answer = item.question.answer.capitalize()
    return {"question": question, "answer": answer, "category": category, "image_path": f"{item.medium}.png"}


def _options(item: Item) -> dict[str, str]:
    return {"question": item.text, **dict(zip(LETTERS, item.options, strict=False)), "answer": item.letter}


def _mmstar(index: int, item: Item) -> dict[str, str]:
    category, second = _MMSTAR_CATEGORIES[item.question.topic]
    return {**_options(item), "category": category, "l2_category": second}


def _seed(index: int, item: Item) -> dict[str, str]:
    return {**_options(item), "category": _SEED_CATEGORIES[item.question.topic]}


def _mmvet(index: int, item: Item) -> dict[str, str]:
    return {
        "question": item.text,
        "answer": item.question.answer,
        "category": _MMVET_CATEGORIES[item.question.topic],
    }


_ROWS = {"MME": _mme, "MMStar": _mmstar, "SEEDBench_IMG": _seed, "MMVet": _mmvet}
