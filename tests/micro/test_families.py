"""What the models are trained on against what they are given: the processor's tokens, Hugging Face's forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.micro.batches import BatchMaker
from harness.micro.families import FAMILIES, Family, family
from harness.micro.families.llava_onevision import tiled
from harness.micro.forward import decode_text, sees
from harness.micro.training import Trainer
from model_wrappers.encoding import encode


@pytest.fixture(scope="module", params=list(FAMILIES))
def parts(request: pytest.FixtureRequest) -> tuple[Family, Any, Any, Any]:
    """A family with its tokenizer, an untrained model and its processor."""
    made = family(request.param)
    tokenizer = made.tokenizer()
    model, processor = made.new_model(tokenizer, 0).eval(), made.processor(tokenizer)
    return made, tokenizer, model, processor


def _alone(batch: Any, row: int, question: int) -> torch.Tensor:
    """Places of one question's tokens, and of what it shares with the others."""
    return ((batch.pack[row] == 0) | (batch.pack[row] == question)).nonzero().flatten()


@torch.no_grad()
@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("name", ["Video-MME", "MVBench", "MMBench-Video", "NExT-QA-MC", "MCQ", "Y/N", "VQA"])
def test_a_packed_question_is_what_the_processor_and_the_model_make_of_it(parts: Any, name: str, larger: bool) -> None:
    made, tokenizer, model, processor = parts
    larger = larger and not (made.few and name in made.image)  # those have the same number of visual tokens always
    if made.name == "micro-llava-onevision":
        tiled(model, processor, 3 if larger else 1)
    maker = BatchMaker(made, tokenizer, 3)
    shown: list[Any] = []
    draw = maker.scenes
    maker.scenes = lambda count, video: shown.append(draw(count, video=video)) or shown[-1]  # type: ignore
    batch = maker.make(name, 2, 2, larger=larger)
    trainer = Trainer(made, model, tokenizer, 0)
    visual = trainer.encode(batch.pixels, noisy=False, larger=larger)
    embeds = model.get_input_embeddings()(batch.input_ids.scatter(1, batch.visual, 0))
    places = batch.visual[..., None].expand(-1, -1, embeds.shape[-1])
    embeds = embeds.scatter(1, places, visual[batch.source])
    hidden, _, _ = decode_text(model, embeds, batch.positions, sees(batch.pack))
    form = made.form(name, larger=larger)
    scenes, pixels = shown[0]
    for row, scene in enumerate(batch.source.tolist()):
        for question in range(1, int(batch.pack[row].max()) + 1):
            chosen = _alone(batch, row, question)
            ids = batch.input_ids[row, chosen]
            start = int((batch.labels[row, chosen] != -100).nonzero()[0]) + 1  # where the answer begins
            last = int((chosen == batch.visual[row, -1]).nonzero())
            asked = _asked(made, tokenizer, form, ids[:start], last)
            inputs = made.inputs(processor, scenes[scene], pixels[scene], asked, form, larger=larger)
            assert inputs["input_ids"][0].tolist() == ids[:start].tolist()
            prompt = encode(model, inputs)[0]
            torch.testing.assert_close(visual[scene], prompt.inputs_embeds[prompt.visual], atol=0.06, rtol=0)
            assert prompt.position_ids.expand(3, -1).tolist() == batch.positions[:, row, chosen[:start]].tolist()
            expected = model(**inputs).logits[0]
            torch.testing.assert_close(model.lm_head(hidden[row, chosen[:start]]), expected, atol=0.3, rtol=0)


def _asked(made: Family, tokenizer: Any, form: Any, ids: torch.Tensor, last: int) -> str:
    """The question's own text, without what every prompt of its form has; `last` is the last visual token."""
    if form.question_first:
        text = tokenizer.decode(ids[:last])
        return text.partition("<|vision_start|>")[0].removeprefix(made.head + form.before)
    text = tokenizer.decode(ids[last + 1 :]).removeprefix("<|vision_end|>")
    assert text.startswith(form.after) and text.endswith(made.tail)
    return text.removeprefix(form.after).removesuffix(made.tail)
