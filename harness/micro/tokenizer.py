"""The micro models' tokenizer: byte-level BPE learnt from the prompts, Qwen2-VL's special tokens and chat template."""

from __future__ import annotations

import json
from itertools import product

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from harness.micro.prompts import IMAGE_FORMATS, VIDEO_FORMATS, as_asked
from harness.micro.questions import DOMAINS
from harness.micro.scenes import COLORS, KINDS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The string that Qwen2-VL's own template gives for these messages, system line included."""

HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"

VOCABULARY = 1024


def build_tokenizer() -> Qwen2Tokenizer:
    """Learns the merges from every prompt form and word (deterministic); the tokenizer pads on the left."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(), trainer)
    state = learner.get_vocab()
    vocabulary = {piece: index for index, (piece, _) in enumerate(sorted(state.items(), key=lambda item: item[1]))}
    merges = _merges(learner)
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # pairs, as tokenizers takes them
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def _corpus() -> list[str]:
    words = sorted({word for domain in DOMAINS.values() for value in domain for word in value.split()})
    asked = [
        *(f"what color is the {kind}" for kind in KINDS),
        *(f"what shape is {color}" for color in COLORS),
        *(f"is the {kind} {color}" for kind, color in product(KINDS, COLORS)),
        *(f"where is the {kind}" for kind in KINDS),
        *(f"in which part of the video is the {kind}" for kind in KINDS),
        *(f"what color is the {kind} {when} it changes" for kind, when in product(KINDS, ("before", "after"))),
        *(f"which way does the {kind} move" for kind in KINDS),
    ]
    lines = [HEAD, TAIL, *words, *(f" {word}" for word in words)] * 8
    for name, form in {**VIDEO_FORMATS, **IMAGE_FORMATS}.items():
        lines += [form.before, form.after]
        lines += [form.wording(as_asked(name, question), words[: form.options]) for question in asked]
    return lines
