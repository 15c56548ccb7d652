"""Training a micro model's compressors by the paper's procedure (section 3.3 and appendix B), in small.

Questions of training scenes, asked in the own words of every benchmark on videos, or on images; those that the model
answers right give a pair of first-layer attention and exact relevance of its answer. Training, held-out scores and card
are `harness.compressor`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from harness.compressor import publish
from harness.compressor.dataset import Pair
from harness.compressor.evaluate import Evaluation
from harness.compressor.train import Settings
from harness.micro.families import Family
from harness.micro.prompts import LETTERS, as_asked
from harness.micro.questions import questions
from harness.micro.scenes import Scene, render, sample_scene
from model_wrappers.compression import generate
from model_wrappers.encoding import encode
from model_wrappers.registry import method
from model_wrappers.relevance.attention import prompt_first_layer_attention


def collect(
    family: Family, model: Any, processor: Any, *, video: bool, samples: int, seed: int
) -> tuple[list[Pair], int]:
    """`samples` questions answered right, their scene as the group; and how many were asked."""
    rng = np.random.default_rng(seed)
    vanilla, relevance = method("vanilla"), method("relevance")
    pairs: list[Pair] = []
    asked, formats = 0, list(family.video if video else family.image)
    bar = tqdm(total=samples, desc="relevance of right answers", unit="sample")
    while len(pairs) < samples:
        name = formats[asked % len(formats)]
        asked += 1
        inputs, wanted, scene = _question(family, processor, name, rng)
        prompt = encode(model, inputs)[0]
        answer, _ = generate(model, prompt, vanilla, 1.0, do_sample=False, max_new_tokens=8)
        if processor.tokenizer.decode(answer, skip_special_tokens=True).strip() != wanted:
            continue
        prompt.cache["response_ids"] = answer
        found = relevance.score(model, prompt).detach()  # type: ignore[attr-defined]
        if float(found.sum()) <= 0:
            continue
        attention = prompt_first_layer_attention(model, prompt).detach()
        pairs.append(Pair(f"{seed}/{asked}", scene.digest, name, attention, found, list(prompt.grids)))
        bar.update()
    bar.close()
    return pairs, asked


def _question(family: Family, processor: Any, name: str, rng: np.random.Generator) -> tuple[Any, str, Scene]:
    """One training question as the processor gives it, its right answer, and the scene it is about."""
    video = name in family.video
    form = family.form(name)
    while True:
        scene = sample_scene(rng, video=video, held_out=False, apart=family.few and not video)
        asked = [q for q in questions(scene, rng) if fits(name, form.options, q.topic)]
        topics = sorted({question.topic for question in asked})
        topic = topics[int(rng.integers(len(topics)))]
        question = next(q for q in asked if q.topic == topic)
        options = question.options(rng, form.options) if form.options else []
        text = form.wording(as_asked(name, question.text), options)
        inputs = family.inputs(processor, scene, torch.from_numpy(render(scene, rng)), text, form)
        wanted = LETTERS[options.index(question.answer)] if options else question.answer
        return inputs, wanted, scene


def fits(name: str, options: int, topic: str) -> bool:
    """Whether a benchmark of this name and number of options asks about the topic."""
    return topic == "yesno" if name == "Y/N" else not (options and topic == "yesno")


def teach(
    family: Family,
    model: Any,
    processor: Any,
    out: Path,
    *,
    media: Literal["video", "image"],
    samples: int,
    epochs: int,
    seed: int,
) -> tuple[Evaluation | None, int]:
    """Trains and publishes the compressor of a model for one kind of media in `out`, in place of what is there.

    Returns:
        Its held-out scores (None where this very training has been done), and how many questions were asked.
    """
    pairs, asked = collect(family, model, processor, video=media == "video", samples=samples, seed=seed)
    settings = Settings(epochs=epochs, seed=seed, input_scale="mean")
    options = f" --samples {samples} --epochs {epochs} --seed {seed}"
    scores = publish.make(
        pairs,
        settings,
        out,
        mllm=family.name,
        media=media,
        data={
            "questions": {"about": "generated training scenes", "asked": asked, "answered right and kept": samples},
            "relevance": {"target": "logit", "clamp": True, "head_weights": "grad"},
        },
        command=f"retain micro teach {family.name}{options}",
        anew=True,
    )
    return scores, asked
