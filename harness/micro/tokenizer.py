"""The micro models' tokenizers: byte-level BPE learnt from a family's own prompts; it encodes any text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from harness.micro.prompts import PromptFormat, as_asked
from harness.micro.questions import DOMAINS
from harness.micro.scenes import COLORS, KINDS

VOCABULARY = 1024
"""Tokens, special ones included."""


def learn(special: int, corpus: Iterable[str]) -> Tokenizer:
    """Byte-level BPE of VOCABULARY - `special` tokens (deterministic), split as Qwen2's and Llama-3's tokenizers do."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - special,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    return learner


def pieces(learner: Tokenizer) -> dict[str, int]:
    """Its vocabulary without gaps, in the order of the ids."""
    state = learner.get_vocab()
    return {piece: index for index, (piece, _) in enumerate(sorted(state.items(), key=lambda item: item[1]))}


def merges(learner: Tokenizer) -> list[tuple[str, str]]:
    """Its merges, in the order in which they were learnt."""
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def corpus(head: str, tail: str, formats: Mapping[str, PromptFormat], more: Sequence[str] = ()) -> list[str]:
    """Every prompt form and word of the task, so that each word becomes one token.

    Args:
        head, tail: of a user's turn in the family's chat template.
        formats: of the benchmarks, by name.
        more: other text that stands in prompts.
    """
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
    lines = [head, tail, *more, *words, *(f" {word}" for word in words)] * 8
    for name, form in formats.items():
        lines += [form.before, form.after]
        lines += [form.wording(as_asked(name, question), words[: form.options]) for question in asked]
    return lines
