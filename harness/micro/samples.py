"""Questions about training scenes as a JSONL file with pictures or videos, for `retain compressor collect`.

They are asked as a file of one's own is: the picture or video first, then the question. That is how these benchmarks
ask, so the micro models know the words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from harness.disk import disk_errors, write_atomically
from harness.micro.compressor import fits
from harness.micro.editions import write_video
from harness.micro.image_editions import SCALE
from harness.micro.prompts import IMAGE_FORMATS, LETTERS, VIDEO_FORMATS, as_asked
from harness.micro.questions import questions
from harness.micro.scenes import CELL, Scene, render, sample_scene

VIDEO = {name: VIDEO_FORMATS[name] for name in ("NExT-QA-MC", "NExT-QA-OE", "ActivityNet-QA")}
AS_OPTIONS = "NExT-QA-MC"
"""Asked with options of its own, which `retain compressor collect` words as this benchmark does."""


def write(folder: Path, *, media: Literal["video", "image"], samples: int, seed: int) -> Path:
    """Writes `folder`/MEDIA.jsonl and what it names, a question a scene; returns its path. StoreError if refused."""
    path = folder / f"{media}.jsonl"
    with disk_errors(folder / media):
        (folder / media).mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in tqdm(_rows(folder, media, samples, seed), total=samples, unit="scene")]
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def _rows(folder: Path, media: Literal["video", "image"], samples: int, seed: int) -> Iterator[dict[str, Any]]:
    video = media == "video"
    formats = VIDEO if video else IMAGE_FORMATS
    for number in range(samples):
        rng = np.random.default_rng([seed, number])
        name = list(formats)[number % len(formats)]
        form = formats[name]
        scene = sample_scene(rng, video=video, held_out=False, apart=not video)
        asked = [question for question in questions(scene, rng) if fits(name, form.options, question.topic)]
        topics = sorted({question.topic for question in asked})
        topic = topics[int(rng.integers(len(topics)))]
        question = next(question for question in asked if question.topic == topic)
        options = question.options(rng, form.options) if form.options else []
        text, answer = as_asked(name, question.text), question.answer
        row: dict[str, Any] = {"id": number, media: _shown(folder, scene, number, seed), "group": scene.digest}
        if name == AS_OPTIONS:
            yield {**row, "question": text, "options": options, "answer": LETTERS[options.index(answer)]}
        else:
            answer = LETTERS[options.index(answer)] if options else answer
            yield {**row, "question": form.wording(text, options), "answer": answer}


def _shown(folder: Path, scene: Scene, number: int, seed: int) -> str:
    """Draws the scene; returns the path of the file, relative to `folder`."""
    if scene.segments > 1:
        name = f"video/{number:05}.mp4"
        write_video(folder / name, scene, seed=seed + number)
        return name
    name = f"image/{number:05}.png"
    picture = Image.fromarray(render(scene, np.random.default_rng(seed + number))[0])
    picture.resize((SCALE * scene.side * CELL,) * 2, Image.Resampling.BICUBIC).save(folder / name)
    return name
