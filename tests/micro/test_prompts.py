"""The micro prompts against VLMEvalKit's own: the models are trained on the very text that they will be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.benchmarks import open_benchmark
from harness.micro import editions
from harness.micro.prompts import IMAGE_FORMATS, VIDEO_FORMATS, as_asked
from harness.micro.questions import TOPICS, questions
from harness.micro.scenes import sample_scene
from harness.micro.tokenizer import HEAD, TAIL, build_tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return editions.ensure(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", list(VIDEO_FORMATS))
def test_video_prompts_are_the_kits(name: str, data: Path) -> None:
    opened = open_benchmark(name, data, 8)
    form = VIDEO_FORMATS[name]
    for position, item in enumerate(_ordered(name)):
        asked = form.wording(item.text, item.options)
        before, after = (asked, "") if form.question_first else (form.before, form.after + asked)
        message = opened.message(position)
        at = next(i for i, part in enumerate(message) if part["type"] == "video")
        texts = [part["value"] for part in message if part["type"] == "text"]
        assert "".join(part["value"] for part in message[:at]) == before
        assert "".join(part["value"] for part in message[at + 1 :]) == after
        assert len(texts) == len(message) - 1


def _ordered(name: str) -> list[editions.Item]:
    items = editions.draw(name)
    if name == "MVBench":
        tasks = list(editions._MVBENCH_TASKS)
        items = sorted(items, key=lambda item: tasks.index(item.question.topic))
    return items


def test_image_prompts_are_the_kits() -> None:
    import pandas as pd

    from model_wrappers.families.kit import load_vlmeval

    load_vlmeval()
    from vlmeval.vlm.qwen2_vl.prompt import Qwen2VLPromptMixin

    class Asker(Qwen2VLPromptMixin):
        def dump_image(self, line: object, dataset: str) -> str:
            return "picture.png"

    asker = Asker.__new__(Asker)
    line = pd.Series({"question": "What color is the star?", "A": "red", "B": "blue", "C": "green", "D": "white"})
    built = asker._build_mcq_prompt(line, "MMStar")[-1]["value"]
    assert built == IMAGE_FORMATS["MCQ"].wording(line["question"], ["red", "blue", "green", "white"])


def test_a_prompt_in_pieces_has_the_tokens_of_the_whole() -> None:
    tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
    for name, form in {**VIDEO_FORMATS, **IMAGE_FORMATS}.items():
        scene = sample_scene(rng, video=name in VIDEO_FORMATS, held_out=False)
        for question in questions(scene, rng):
            options = question.options(rng, form.options) if form.options else []
            asked = form.wording(as_asked(name, question.text), options)
            media = "<|vision_start|><|video_pad|><|vision_end|>"
            pieces = [HEAD + form.before + (asked if form.question_first else ""), media]
            pieces += [TAIL] if form.question_first else [form.after, asked + TAIL]
            assert sum((tokenizer(piece).input_ids for piece in pieces), []) == tokenizer("".join(pieces)).input_ids


def test_the_tokenizer_encodes_any_text_and_every_word_of_the_task_as_one_token() -> None:
    tokenizer = build_tokenizer()
    strange = "Zebras — 漢字, \t🙂\n\n  x<|im_end|>"
    assert tokenizer.decode(tokenizer(strange).input_ids) == strange
    from harness.micro.questions import DOMAINS

    for word in {word for topic in TOPICS for value in DOMAINS[TOPICS[topic]] for word in value.split()}:
        assert len(tokenizer(word).input_ids) == len(tokenizer(f" {word}").input_ids) == 1, word


def test_the_template_gives_the_prompt_that_was_trained_on() -> None:
    tokenizer = build_tokenizer()
    content = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "what color is the star"}]
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert given == HEAD + "<|vision_start|><|video_pad|><|vision_end|>what color is the star" + TAIL
