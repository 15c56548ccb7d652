"""The micro LLaVA-OneVision: prompts, layout, configuration, processor. Hugging Face's own classes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Tokenizer,
)

from harness.micro import tokenizer as bpe
from harness.micro.families.base import FRAMES, LONGER, Family, Layout, cells, over_time, resized, segment_of
from harness.micro.families.grow import grow
from harness.micro.families.siglip import PATCHES, SIZE, initialise, squeezed, tower_config
from harness.micro.prompts import PLAIN_IMAGE_FORMATS, VIDEO_FORMATS, PromptFormat
from harness.micro.scenes import FPS, FRAMES_PER_SEGMENT, SEGMENTS, Scene

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PINPOINTS = [[SIZE * rows, SIZE * columns] for rows in range(1, 4) for columns in range(1, 4)]
ASPECT = "anyres_max_5"
TILES, LARGER = 3, 26
"""Table 5's images: tiles along a side, and visual tokens along it once `ASPECT` has shrunk their 36."""
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    "tie_word_embeddings": False,
}
"""The decoder's sizes, those of micro-qwen2-vl."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ '\n' + message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The string that the published checkpoints' template gives: pictures first, no system line."""


def time_instruction(frames: int) -> str:
    """What VLMEvalKit's class says about the frames of a micro video before anything else."""
    last = SEGMENTS * FRAMES_PER_SEGMENT - 1
    times = ", ".join(f"{int(last * i / (frames - 1)) / FPS:.2f}s" for i in range(frames))
    return (
        f"The video lasts for {(last + 1) / FPS:.2f} seconds, and {frames} frames are uniformly sampled from it. "
        f"These frames are located at {times}. Please answer the following questions related to this video.\n"
    )


def _video(form: PromptFormat, frames: int = FRAMES) -> PromptFormat:
    """The video stands first, whatever the benchmark says."""
    after = "\n" + time_instruction(frames) + form.before + form.after
    return replace(form, before="", after=after, question_first=False)


class LlavaOnevision(Family):
    """Each frame is PATCHES x PATCHES patches, pooled two by two; one newline token ends a video, and each row of an
    image's tile."""

    name = "micro-llava-onevision"
    head = "<|im_start|>user "
    tail = "<|im_end|><|im_start|>assistant\n"
    video = {name: _video(form) for name, form in VIDEO_FORMATS.items()}
    longer = {name: _video(form, LONGER) for name, form in VIDEO_FORMATS.items()}
    image = {name: replace(form, before="\n", after="\n") for name, form in PLAIN_IMAGE_FORMATS.items()}
    bare = PromptFormat(options=0, wording=lambda question, options: question, after="\n")

    def tokenizer(self) -> Qwen2Tokenizer:
        """Pads on the left."""
        learner = bpe.learn(len(SPECIAL_TOKENS), bpe.corpus(self.head, self.tail, {**self.video, **self.image}))
        return Qwen2Tokenizer(
            vocab=bpe.pieces(learner),
            merges=bpe.merges(learner),  # type: ignore[arg-type]  # pairs, as tokenizers takes them
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=list(SPECIAL_TOKENS),
            chat_template=CHAT_TEMPLATE,
            padding_side="left",
        )

    def new_model(self, tokenizer: Qwen2Tokenizer, seed: int) -> LlavaOnevisionForConditionalGeneration:
        token = tokenizer.get_vocab().__getitem__
        ends = [token("<|im_end|>"), token("<|endoftext|>")]
        text = {"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT}
        config = LlavaOnevisionConfig(
            text_config={**text, "bos_token_id": ends[1], "eos_token_id": ends[0], "pad_token_id": ends[1]},
            vision_config=tower_config(2),
            image_token_index=token("<image>"),
            video_token_index=token("<video>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=ASPECT,
            image_grid_pinpoints=PINPOINTS,
            tie_word_embeddings=False,
        )
        model = LlavaOnevisionForConditionalGeneration(config)
        initialise(model.model.vision_tower, model.model.multi_modal_projector, seed)
        grow(model, tokenizer, {"<image>": "<|image_pad|>", "<video>": "<|video_pad|>"})
        model.generation_config = GenerationConfig(bos_token_id=ends[1], eos_token_id=ends, pad_token_id=ends[1])
        return model

    def processor(self, tokenizer: Qwen2Tokenizer) -> LlavaOnevisionProcessor:
        half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": SIZE, "width": SIZE}}
        return LlavaOnevisionProcessor(
            image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=PINPOINTS, **half),
            tokenizer=tokenizer,
            video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **half),
            num_image_tokens=PATCHES**2,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=ASPECT,
            chat_template=CHAT_TEMPLATE,
        )

    def layout(self, *, video: bool, side: int, larger: bool = False) -> Layout:
        return _layout(video, side, larger)

    def encode(
        self, model: Any, pixels: Tensor, *, video: bool, noise: torch.Generator | None, larger: bool = False
    ) -> Tensor:
        inner = model.model
        seen = inner.vision_tower(squeezed(pixels, noise), output_hidden_states=True).hidden_states[-1]
        tokens = inner.multi_modal_projector(seen)
        batch, width = pixels.shape[0], tokens.shape[-1]
        newline = inner.image_newline.to(tokens.dtype)
        if video:
            frames = inner.apply_pooling(tokens).view(batch, pixels.shape[1], -1, width)
            frames = frames[:, segment_of(LONGER if larger else FRAMES)]
            return torch.cat([frames.flatten(1, 2), newline.expand(batch, 1, width)], dim=1)
        rows = self._tiles(inner, pixels, noise) if larger else tokens.view(batch, PATCHES, PATCHES, width)
        rows = torch.cat([rows, newline.expand(batch, rows.shape[1], 1, width)], dim=2)
        return torch.cat([tokens, rows.flatten(1, 2)], dim=1)

    def _tiles(self, inner: Any, pixels: Tensor, noise: torch.Generator | None) -> Tensor:
        """What the tiles of a larger image show, float [B, LARGER, LARGER, d]."""
        batch = pixels.shape[0]
        large = resized(pixels, TILES * SIZE).view(batch, TILES, SIZE, TILES, SIZE, 3)
        tiles = squeezed(large.transpose(2, 3).flatten(1, 2), noise)
        seen = inner.vision_tower(tiles, output_hidden_states=True).hidden_states[-1]
        grid = inner.multi_modal_projector(seen).view(batch, TILES, TILES, PATCHES, PATCHES, -1).transpose(2, 3)
        grid = grid.reshape(batch, TILES * PATCHES, TILES * PATCHES, -1).permute(0, 3, 1, 2)
        return F.interpolate(grid, (LARGER, LARGER), mode="bilinear").permute(0, 2, 3, 1)

    def load(self, folder: Path) -> tuple[Any, Any]:
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        processor = LlavaOnevisionProcessor.from_pretrained(folder)
        one_tile(model, processor)
        return model, processor

    def inputs(
        self, processor: Any, scene: Scene, pictures: Tensor, text: str, form: PromptFormat, *, larger: bool = False
    ) -> Any:
        shown = pictures.permute(0, 3, 1, 2)
        if scene.segments > 1:
            media, given = "<video>", {"videos": [shown[segment_of(LONGER if larger else FRAMES)]]}
        else:
            media, given = "<image>", {"images": [shown[0]]}
        prompt = self.head + form.before + media + form.after + text + self.tail
        return processor(text=[prompt], return_tensors="pt", **given)


def one_tile(model: Any, processor: Any) -> None:
    """Images as they mostly are in training: the base image and one tile."""
    tiled(model, processor, 1)


def tiled(model: Any, processor: Any, tiles: int) -> None:
    """Square images get `tiles` x `tiles` tiles, whatever their size."""
    side = tiles * SIZE
    model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = [[side, side]]


@cache
def _layout(video: bool, side: int, larger: bool) -> Layout:
    nowhere = torch.full((1, 6), torch.nan)
    if video:
        shown = over_time(cells(PATCHES // 2, PATCHES // 2), LONGER if larger else FRAMES)
        extents = torch.cat([shown, nowhere])
        return Layout((SEGMENTS, side, side), (len(extents),), "<video>", extents)
    base = over_time(cells(PATCHES, PATCHES), 1)
    size = LARGER if larger else PATCHES
    rows = over_time(cells(size, size), 1).view(size, size, 6)
    rows = torch.cat([rows, nowhere.expand(size, 1, 6)], dim=1)
    extents = torch.cat([base, rows.flatten(0, 1)])
    return Layout((1, side, side), (len(extents),), "<image>", extents)
