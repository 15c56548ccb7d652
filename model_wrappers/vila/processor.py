"""From images and a prompt's text to what VILA's model takes, as VILA1.5's own code does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoProcessor,
    BatchFeature,
    GenerationConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SiglipImageProcessorPil,
)

from model_wrappers.errors import SampleError, UserError
from model_wrappers.vila.config import VilaConfig
from model_wrappers.vila.layout import is_hub_layout
from model_wrappers.vila.templates import IMAGE, SEPARATORS


def splice(pieces: Sequence[Sequence[int]], bos: int | None, placeholders: Sequence[int]) -> list[int]:
    """Joins the tokens of the texts around the images, as VILA1.5's `tokenizer_image_token` does.

    Where the prompt's first token is `bos`, one is kept in front and then the first token of *every* piece is dropped.
    It was meant for tokenizers that put `bos` before each piece. Where such a tokenizer meets a template that starts
    with `bos` itself, two stay in front; where the tokenizer adds none, the first real token after each image is lost
    (the newline, usually). Models were trained so, so both are kept.

    Args:
        pieces: token ids of the text before, between and after the images: one list more than there are images.
        bos: id of the token that begins a text.
        placeholders: what stands for one image.
    """
    drop = 1 if pieces[0] and pieces[0][0] == bos else 0
    ids = list(pieces[0][:drop])
    for number, piece in enumerate(pieces):
        if number:
            ids.extend(placeholders)
        ids.extend(piece[drop:])
    return ids


class VilaProcessor(ProcessorMixin):
    """Tokenizer and image processor of one checkpoint; `from_pretrained` reads the published layout and its own.

    Args:
        image_processor: squeezes every image into the tower's square, whatever its shape, with PIL.
        tokenizer: as the checkpoint's tokenizer.json has it.
        image_token_id: placeholder of a visual token, outside the vocabulary.
        n_image_tokens: visual tokens of one image.
        max_length: tokens of a prompt, visual ones included, that the model was made for; None: any number.
        chat_template: of a conversation; an image in it is `<image>` and a newline.

    Raises:
        UserError: the tokenizer has tokens where the placeholder should be, or no token that ends an answer.
    """

    def __init__(
        self,
        image_processor: SiglipImageProcessorPil,
        tokenizer: PreTrainedTokenizerFast,
        image_token_id: int,
        n_image_tokens: int,
        max_length: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if len(tokenizer) > image_token_id:
            raise UserError(f"The tokenizer has {len(tokenizer)} tokens, the model's embedding only {image_token_id}.")
        self.image_token_id, self.n_image_tokens, self.max_length = image_token_id, n_image_tokens, max_length
        vocabulary = tokenizer.get_vocab()
        self.stop_ids = [vocabulary[token] for token in SEPARATORS if token in vocabulary]
        if not self.stop_ids:
            raise UserError(f"The tokenizer has none of the tokens that end an answer: {', '.join(SEPARATORS)}.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> VilaProcessor:
        folder = Path(pretrained_model_name_or_path)
        if is_hub_layout(folder):
            from model_wrappers.vila.hub import load_hub_processor

            return load_hub_processor(folder)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        """These two classes and no others: the Auto classes take torchvision to resize, and remake some tokenizers."""
        return [
            SiglipImageProcessorPil.from_pretrained(pretrained_model_name_or_path, **kwargs),
            PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]

    @property
    def pad_id(self) -> int:
        """What stands where a batch is padded; the attention mask hides it."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop_ids[-1]

    def generation_config(self) -> GenerationConfig:
        """Greedy, ending at either separator."""
        return GenerationConfig(
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.stop_ids,
            pad_token_id=self.pad_id,
            do_sample=False,
        )

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenises prompts and prepares their images.

        Args:
            images: PIL images of all prompts in their order: one, a list, or a list of lists.
            text: one prompt or several, each with one `<image>` for each of its images.
            videos: must be None; a video's frames are images to VILA.
            kwargs: `padding` and `return_tensors` as other processors take them: a batch is always padded, on the left,
                and tensors are always torch's.

        Returns:
            input_ids [B, L], attention_mask [B, L] and, where there are images, pixel_values [N, 3, S, S].

        Raises:
            UserError: images and `<image>` differ in number, or there are videos.
            SampleError: a prompt has more than `max_length` tokens. (VILA's own code cuts its end off without a word:
                the question is lost.)
        """
        if text is None:
            raise UserError("VilaProcessor needs a text.")
        if videos is not None:
            raise UserError("VILA takes the frames of a video as images.")
        texts = [text] if isinstance(text, str) else list(text)
        pictures = list(_flat(images))
        wanted = sum(prompt.count(IMAGE) for prompt in texts)
        if wanted != len(pictures):
            raise UserError(f"The text has {wanted} {IMAGE} where {len(pictures)} images are given.")
        rows = [self.tokenize(prompt) for prompt in texts]
        ids, mask = self._pad(rows)
        data = {"input_ids": ids, "attention_mask": mask}
        if pictures:
            pictures = [picture.convert("RGB") for picture in pictures]
            data["pixel_values"] = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return BatchFeature(data)

    def tokenize(self, text: str, placeholders: int | None = None) -> list[int]:
        """Token ids of one prompt, each `<image>` replaced by its placeholders: as many as it has visual tokens, or
        `placeholders` of them.

        Raises:
            SampleError: more than `max_length` of them.
        """
        pieces = [self.tokenizer(piece).input_ids for piece in text.split(IMAGE)]
        count = self.n_image_tokens if placeholders is None else placeholders
        ids = splice(pieces, self.tokenizer.bos_token_id, [self.image_token_id] * count)
        if self.max_length is not None and len(ids) > self.max_length:
            raise SampleError(
                f"The prompt has {len(ids)} tokens, {ids.count(self.image_token_id)} of them visual; the model was "
                f"made for {self.max_length}: use fewer images or frames."
            )
        return ids

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        ids = torch.full((len(rows), max(map(len, rows))), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, ids.shape[1] - len(tokens) :] = torch.tensor(tokens)
            mask[row, ids.shape[1] - len(tokens) :] = 1
        return ids, mask


def _flat(images: Any) -> Iterator[Image.Image]:
    if isinstance(images, Image.Image):
        yield images
    elif images is not None:
        for image in images:
            yield from _flat(image)


AutoProcessor.register(VilaConfig, VilaProcessor)
