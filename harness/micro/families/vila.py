"""The micro VILA1.5: prompts, layout, configuration, processor, over `model_wrappers.vila`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipImageProcessorPil

from harness.micro import tokenizer as bpe
from harness.micro.families.base import FRAMES, LONGER, Family, Layout, cells, over_time, segment_of
from harness.micro.families.grow import grow
from harness.micro.families.llava_onevision import TEXT
from harness.micro.families.siglip import PATCHES, SIZE, initialise, squeezed, tower_config
from harness.micro.prompts import PLAIN_IMAGE_FORMATS, VIDEO_FORMATS, PromptFormat
from harness.micro.scenes import SEGMENTS, Scene
from model_wrappers.vila import VilaConfig, VilaForConditionalGeneration, VilaProcessor
from model_wrappers.vila.templates import SYSTEM, TEMPLATES

BOS, END, STOP = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
SPECIAL_TOKENS = (BOS, END, "<|start_header_id|>", "<|end_header_id|>", STOP)


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _video(name: str, form: PromptFormat, frames: int = FRAMES) -> PromptFormat:
    """VILA gets the frames as images; MMBench-Video then asks in other words."""
    if name != "MMBench-Video":
        return replace(form, after="\n" + form.after)
    return PromptFormat(
        options=0,
        wording=lambda question, options: f"Question: {question}\nAnswer: ",
        before=f"\nYou will be provided with {frames} separate frames uniformly sampled from a video, the frames are "
        "provided in chronological order of the video.\nPlease analyze these images and provide the answer to the "
        "question about the video content.\nPlease directly reply with your response to the only question.\n",
        after="\n",
    )


class Vila(Family):
    """Each frame is an image of PATCHES x PATCHES patches, joined two by two; a newline follows each."""

    name = "micro-vila"
    # A tokenizer that begins each text with BOS meets a template that does so, too: the published code keeps both.
    head = BOS + BOS + _header("system") + SYSTEM + STOP + _header("user")
    tail = STOP + _header("assistant")
    video = {name: _video(name, form) for name, form in VIDEO_FORMATS.items()}
    longer = {name: _video(name, form, LONGER) for name, form in VIDEO_FORMATS.items()}
    image = {name: replace(form, after="\n") for name, form in PLAIN_IMAGE_FORMATS.items()}
    bare = PromptFormat(options=0, wording=lambda question, options: question, after="\n")
    few = True

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Begins each text with BOS."""
        learner = bpe.learn(len(SPECIAL_TOKENS), bpe.corpus(self.head, self.tail, {**self.video, **self.image}))
        learner.add_special_tokens(list(SPECIAL_TOKENS))
        begin = [(BOS, learner.token_to_id(BOS))]
        learner.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=begin)
        return PreTrainedTokenizerFast(
            tokenizer_object=learner, bos_token=BOS, eos_token=STOP, pad_token=END, padding_side="left"
        )

    def new_model(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> VilaForConditionalGeneration:
        token = tokenizer.get_vocab().__getitem__
        text = {"vocab_size": len(tokenizer), "bos_token_id": token(BOS), "eos_token_id": token(STOP), **TEXT}
        # The last of the tower's layers is not used (`vision_feature_layer` is -2), as in the published checkpoints.
        config = VilaConfig(text_config={**text, "pad_token_id": token(END)}, vision_config=tower_config(3))
        model = VilaForConditionalGeneration(config)
        initialise(model.model.vision_tower, model.model.multi_modal_projector, seed)
        same = {BOS: "<|endoftext|>", END: "<|endoftext|>", STOP: "<|im_end|>"}
        grow(model, tokenizer, {**same, "<|start_header_id|>": "<|im_start|>", "<|end_header_id|>": "<|im_start|>"})
        model.generation_config = self.processor(tokenizer).generation_config()
        return model

    def processor(self, tokenizer: PreTrainedTokenizerFast) -> VilaProcessor:
        images = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
        return VilaProcessor(images, tokenizer, len(tokenizer), (PATCHES // 2) ** 2, chat_template=TEMPLATES["llama_3"])

    def layout(self, *, video: bool, side: int, larger: bool = False) -> Layout:
        return _layout(video, side, LONGER if larger else FRAMES)

    def encode(
        self, model: Any, pixels: Tensor, *, video: bool, noise: torch.Generator | None, larger: bool = False
    ) -> Tensor:
        inner = model.model
        seen = inner.vision_tower(squeezed(pixels, noise), output_hidden_states=True).hidden_states[-2]
        tokens = inner.multi_modal_projector(seen).view(*pixels.shape[:2], (PATCHES // 2) ** 2, -1)
        return (tokens[:, segment_of(LONGER if larger else FRAMES)] if video else tokens).flatten(1, 2)

    def load(self, folder: Path) -> tuple[Any, Any]:
        model = VilaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        return model, VilaProcessor.from_pretrained(folder)

    def inputs(
        self, processor: Any, scene: Scene, pictures: Tensor, text: str, form: PromptFormat, *, larger: bool = False
    ) -> Any:
        frames = segment_of(LONGER if larger else FRAMES).tolist() if scene.segments > 1 else [0]
        images = [Image.fromarray(pictures[frame].numpy()) for frame in frames]
        media = "\n".join(["<image>"] * len(images))
        # The processor's tokenizer puts the other BOS.
        head = self.head.removeprefix(BOS)
        return processor(text=head + form.before + media + form.after + text + self.tail, images=images)


@cache
def _layout(video: bool, side: int, frames: int) -> Layout:
    frames, count = (frames, SEGMENTS) if video else (1, 1)
    columns = cells(PATCHES // 2, PATCHES // 2).view(PATCHES // 2, PATCHES // 2, 4).transpose(0, 1).reshape(-1, 4)
    pieces: list[str | int] = [len(columns)]
    for _ in range(frames - 1):
        pieces += ["\n", len(columns)]
    return Layout((count, side, side), tuple(pieces), "", over_time(columns, frames))
