"""The micro prompts against VLMEvalKit's own: the models are trained on the very text that they will be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.benchmarks import open_benchmark
from harness.micro import editions, image_editions
from harness.micro.families import FAMILIES, Family, family
from harness.micro.prompts import IMAGE_FORMATS, PLAIN_IMAGE_FORMATS, VIDEO_FORMATS
from harness.micro.questions import DOMAINS, TOPICS


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


def test_image_prompts_are_those_of_the_kits_datasets(data: Path) -> None:
    """As models without prompts of their own get them."""
    for name, form in image_editions.FORMATS.items():
        opened = open_benchmark(name, data, 8)
        for position, item in enumerate(image_editions.draw(name)):
            message = opened.message(position)
            assert [part["type"] for part in message] == ["image", "text"]
            assert message[1]["value"] == PLAIN_IMAGE_FORMATS[form].wording(item.text, item.options)


@pytest.mark.parametrize("name", list(VIDEO_FORMATS))
def test_vila_asks_about_frames_as_the_kit_does(name: str, data: Path) -> None:
    opened, form = open_benchmark(name, data, 8), family("micro-vila").video[name]
    for position, item in list(enumerate(_ordered(name)))[::20]:
        message = opened.message(position, video_llm=False)
        said = "".join("<image>\n" if part["type"] == "image" else part["value"] for part in message)
        asked = form.wording(item.text, item.options)
        assert said == form.before + "\n".join(["<image>"] * 8) + form.after + asked


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_tokenizer_encodes_any_text_and_every_word_of_the_task_as_one_token(name: str) -> None:
    tokenizer = family(name).tokenizer()

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    strange = "Zebras — 漢字, \t🙂\n\n  x"
    assert tokenizer.decode(ids(strange)) == strange
    for word in {word for topic in TOPICS for value in DOMAINS[TOPICS[topic]] for word in value.split()}:
        assert len(ids(word)) == len(ids(f" {word}")) == 1, word


def test_the_templates_give_the_prompts_that_were_trained_on() -> None:
    qwen, onevision, vila = map(family, FAMILIES)
    text = {"type": "text", "text": "what color is the star"}

    def given(made: Family, content: list[dict[str, str]]) -> str:
        processor = made.processor(made.tokenizer())
        message = [{"role": "user", "content": content}]
        return processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    media = "<|vision_start|><|video_pad|><|vision_end|>"
    shown = given(qwen, [{"type": "video", "video": "a.mp4"}, text])
    assert shown == qwen.head + media + text["text"] + qwen.tail
    assert given(onevision, [text, {"type": "video"}]) == onevision.head + "<video>\n" + text["text"] + onevision.tail
    shown = given(vila, [{"type": "text", "text": "<image>\n" + text["text"]}])
    assert "<|begin_of_text|>" + shown == vila.head + "<image>\n" + text["text"] + vila.tail
