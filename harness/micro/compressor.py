"""Training the micro model's compressor by the paper's procedure (section 3.3 and appendix B), in small.

Questions of training scenes, asked in every video benchmark's own words; those that the model answers right give a pair
of first-layer attention and exact relevance of its answer. Labels, loss and network are `model_wrappers.compressor`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harness.micro.prompts import LETTERS, VIDEO_FORMATS, as_asked
from harness.micro.questions import questions
from harness.micro.scenes import render, sample_scene
from harness.micro.tokenizer import HEAD, TAIL
from model_wrappers.compression import generate
from model_wrappers.compressor import Compressor, kl_loss, label
from model_wrappers.encoding import encode
from model_wrappers.registry import method
from model_wrappers.relevance.attention import prompt_first_layer_attention

BATCH = 128


def collect(model: Any, processor: Any, *, samples: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """A_v^0 and R_v, float [samples, N_v] each, of `samples` questions answered right; and how many were asked."""
    rng = np.random.default_rng(seed)
    vanilla, relevance = method("vanilla"), method("relevance")
    attentions: list[Tensor] = []
    scores: list[Tensor] = []
    asked = 0
    bar = tqdm(total=samples, desc="relevance of right answers", unit="sample")
    while len(scores) < samples:
        name = list(VIDEO_FORMATS)[asked % len(VIDEO_FORMATS)]
        asked += 1
        inputs, wanted = _question(processor, name, rng)
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


def _question(processor: Any, name: str, rng: np.random.Generator) -> tuple[Any, str]:
    """One training question as the processor gives it, and its right answer."""
    form = VIDEO_FORMATS[name]
    while True:
        scene = sample_scene(rng, video=True, held_out=False)
        asked = [q for q in questions(scene, rng) if not (form.options and q.topic == "yesno")]
        topics = sorted({question.topic for question in asked})
        topic = topics[int(rng.integers(len(topics)))]
        question = next(q for q in asked if q.topic == topic)
        options = question.options(rng, form.options) if form.options else []
        text = form.wording(as_asked(name, question.text), options)
        video = "<|vision_start|><|video_pad|><|vision_end|>"
        body = text + video if form.question_first else form.before + video + form.after + text
        frames = torch.from_numpy(render(scene, rng)).permute(0, 3, 1, 2).repeat_interleave(2, dim=0)
        inputs = processor(text=[HEAD + body + TAIL], videos=[frames], do_sample_frames=False, return_tensors="pt")
        wanted = LETTERS[options.index(question.answer)] if options else question.answer
        return inputs, wanted


def fit(attentions: Tensor, relevances: Tensor, *, mllm: str, epochs: int, seed: int) -> Compressor:
    """A compressor trained for `epochs` with Adam at its defaults and batches of 128, as the paper's."""
    torch.manual_seed(seed)
    net = Compressor(mllm, media="video", input_scale="mean")
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
