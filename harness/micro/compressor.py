"""Training a micro model's compressors by the paper's procedure (section 3.3 and appendix B), in small.

Questions of training scenes, asked in the own words of every benchmark on videos, or on images; those that the model
answers right give a pair of first-layer attention and exact relevance of its answer. Labels, loss and network are
`model_wrappers.compressor`'s.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harness.micro.families import Family
from harness.micro.prompts import LETTERS, as_asked
from harness.micro.questions import questions
from harness.micro.scenes import render, sample_scene
from model_wrappers.compression import generate
from model_wrappers.compressor import Compressor, kl_loss, label
from model_wrappers.encoding import encode
from model_wrappers.registry import method
from model_wrappers.relevance.attention import prompt_first_layer_attention

BATCH = 128


def collect(
    family: Family, model: Any, processor: Any, *, video: bool, samples: int, seed: int
) -> tuple[Tensor, Tensor, int]:
    """A_v^0 and R_v, float [samples, N_v] each, of `samples` questions answered right; and how many were asked."""
    rng = np.random.default_rng(seed)
    vanilla, relevance = method("vanilla"), method("relevance")
    attentions: list[Tensor] = []
    scores: list[Tensor] = []
    asked, formats = 0, list(family.video if video else family.image)
    bar = tqdm(total=samples, desc="relevance of right answers", unit="sample")
    while len(scores) < samples:
        name = formats[asked % len(formats)]
        asked += 1
        inputs, wanted = _question(family, processor, name, rng)
        prompt = encode(model, inputs)[0]
        answer, _ = generate(model, prompt, vanilla, 1.0, do_sample=False, max_new_tokens=8)
        if processor.tokenizer.decode(answer, skip_special_tokens=True).strip() != wanted:
            continue
        prompt.cache["response_ids"] = answer
        found = relevance.score(model, prompt)  # type: ignore[attr-defined]
        if float(found.sum()) <= 0:
            continue
        attentions.append(prompt_first_layer_attention(model, prompt).detach())
        scores.append(found.detach())
        bar.update()
    bar.close()
    return torch.stack(attentions), torch.stack(scores), asked


def _question(family: Family, processor: Any, name: str, rng: np.random.Generator) -> tuple[Any, str]:
    """One training question as the processor gives it, and its right answer."""
    video = name in family.video
    form = {**family.video, **family.image}[name]
    while True:
        scene = sample_scene(rng, video=video, held_out=False, apart=family.few and not video)
        asked = [q for q in questions(scene, rng) if _fits(name, form.options, q.topic)]
        topics = sorted({question.topic for question in asked})
        topic = topics[int(rng.integers(len(topics)))]
        question = next(q for q in asked if q.topic == topic)
        options = question.options(rng, form.options) if form.options else []
        text = form.wording(as_asked(name, question.text), options)
        inputs = family.inputs(processor, scene, torch.from_numpy(render(scene, rng)), text, form)
        wanted = LETTERS[options.index(question.answer)] if options else question.answer
        return inputs, wanted


def _fits(name: str, options: int, topic: str) -> bool:
    return topic == "yesno" if name == "Y/N" else not (options and topic == "yesno")


def fit(
    attentions: Tensor, relevances: Tensor, *, mllm: str, media: Literal["video", "image"], epochs: int, seed: int
) -> Compressor:
    """A compressor trained for `epochs` with Adam at its defaults and batches of 128, as the paper's."""
    torch.manual_seed(seed)
    net = Compressor(mllm, media=media, input_scale="mean")
    targets = label(relevances)
    optimiser = torch.optim.Adam(net.parameters())
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        bar = tqdm(range(epochs), desc="compressor", unit="epoch")
        for _ in bar:
            total = 0.0
            for chosen in torch.randperm(len(targets), generator=generator).split(BATCH):
                loss = kl_loss(targets[chosen], net.log_probabilities(attentions[chosen]))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += loss.item() * len(chosen)
            bar.set_postfix(KL=f"{total / len(targets):.4f}")
    return net.eval()
