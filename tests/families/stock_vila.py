"""VLMEvalKit's own VILA, running: its package `llava` cannot be installed here, so what it takes from there is written
again below, after the published description of the last version it works with (October 2024)."""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model_wrappers.families.kit import load_vlmeval
from model_wrappers.vila import VilaForConditionalGeneration, VilaProcessor

load_vlmeval()
from vlmeval.vlm.vila import VILA as KitVILA  # noqa: E402

IMAGE_TOKEN_INDEX = -200


class SeparatorStyle(enum.Enum):
    TWO = enum.auto()
    LLAMA_3 = enum.auto()


class Conversation:
    """Roles, messages and what stands between them, for `llama_3`."""

    sep_style = SeparatorStyle.LLAMA_3
    system = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language."
    )
    roles = (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    )
    sep, sep2 = "<|eot_id|>", "<|end_of_text|>"

    def __init__(self) -> None:
        self.messages: list[tuple[str, str | None]] = []

    def copy(self) -> Conversation:
        return Conversation()

    def append_message(self, role: str, message: str | None) -> None:
        self.messages.append((role, message))

    def get_prompt(self) -> str:
        said = [role + message + self.sep if message else role for role, message in self.messages]
        return self.system + self.sep + "".join(said)


def tokenizer_image_token(prompt: str, tokenizer: Any, index: int, return_tensors: str) -> Tensor:
    """Pieces around the images; where the first begins with bos, the first token of each is taken off."""
    pieces = [tokenizer(piece).input_ids for piece in prompt.split("<image>")]
    begins = bool(pieces[0]) and pieces[0][0] == tokenizer.bos_token_id
    ids = [pieces[0][0]] if begins else []
    for number, piece in enumerate(pieces):
        ids += ([index] if number else []) + (piece[1:] if begins else piece)
    return torch.tensor(ids)


def process_images(images: list[Image.Image], processor: Any, config: Any) -> Tensor:
    """`image_aspect_ratio` "resize": each image squeezed into the tower's square, then scaled to [-1, 1]."""
    side = processor.size["height"]
    arrays = [np.asarray(image.resize((side, side))) for image in images]
    return torch.stack([torch.tensor(array / 127.5 - 1).permute(2, 0, 1) for array in arrays])


class KeywordsStoppingCriteria:
    """True once the last tokens are one of the keywords'."""

    def __init__(self, keywords: list[str], tokenizer: Any, input_ids: Tensor) -> None:
        self.ends = []
        for keyword in keywords:
            ids = tokenizer(keyword).input_ids
            self.ends.append(ids[1:] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids)

    def __call__(self, output_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return any(output_ids[0, -len(end) :].tolist() == end for end in self.ends)


class Model:
    """generate() as theirs: an index becomes an image's features, and only new tokens come back."""

    def __init__(self, folder: Path) -> None:
        self.inner: Any = VilaForConditionalGeneration.from_pretrained(folder).eval()
        self.config, self.device = SimpleNamespace(image_aspect_ratio="resize"), "cpu"
        self.end_of_text = VilaProcessor.from_pretrained(folder).stop_ids[1]
        self.seen: list[tuple[list[int], Tensor]] = []
        self.said: list[list[int]] = []

    def generate(
        self, input_ids: Tensor, images: Tensor, stopping_criteria: list[Any], **kwargs: Any
    ) -> list[list[int]]:
        self.seen.append((input_ids[0].tolist(), images))
        features = iter(self.inner.model.get_image_features(images.float(), return_dict=True).pooler_output)
        table = self.inner.get_input_embeddings().weight
        rows = [next(features) if token == IMAGE_TOKEN_INDEX else table[token][None] for token in input_ids[0].tolist()]
        embeds, new = torch.cat(rows), torch.empty((1, 0), dtype=torch.long)
        for _ in range(kwargs["max_new_tokens"]):
            logits = self.inner(inputs_embeds=embeds[None], logits_to_keep=1).logits[0, -1]
            new = torch.cat((new, logits.argmax().view(1, 1)), dim=1)
            if int(new[0, -1]) == self.end_of_text or stopping_criteria[0](new, None):
                break
            embeds = torch.cat((embeds, table[new[0, -1]][None]))
        self.said.append(new[0].tolist())
        return new.tolist()


def stock_vila(folder: Path, **kwargs: Any) -> Any:
    """The kit's class on a checkpoint in our own layout; on a CPU, where tests make `Tensor.cuda` do nothing."""
    model = KitVILA.__new__(KitVILA)
    processor = VilaProcessor.from_pretrained(folder)
    model.tokenizer, model.image_processor = processor.tokenizer, processor.image_processor
    model.model = Model(folder)
    model.conv_mode, model.conv_templates = "llama_3", {"llama_3": Conversation()}
    model.process_images, model.tokenizer_image_token = process_images, tokenizer_image_token
    model.DEFAULT_IMAGE_TOKEN, model.IMAGE_TOKEN_INDEX = "<image>", IMAGE_TOKEN_INDEX
    model.SeparatorStyle, model.KeywordsStoppingCriteria = SeparatorStyle, KeywordsStoppingCriteria
    model.kwargs = kwargs
    return model
