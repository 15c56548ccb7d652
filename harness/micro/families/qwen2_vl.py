"""The micro Qwen2-VL: prompts, layout, configuration, initialisation, processor. Hugging Face's own classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    GenerationConfig,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from harness.micro import tokenizer as bpe
from harness.micro.families.base import LONGER, Family, Layout, cells, disturbed, over_time, resized, segment_of
from harness.micro.prompts import IMAGE_FORMATS, VIDEO_FORMATS, PromptFormat
from harness.micro.scenes import CELL, SEGMENTS, VIDEO_SIDE, Scene

MIN_PIXELS = (VIDEO_SIDE * CELL) ** 2
"""Of a video frame, which is thus never resized."""
LARGER = 20
"""Visual tokens along a side of an image in Table 5."""
MAX_PIXELS = 16384 * 28 * 28
"""As the real checkpoints have it: who wants images smaller says so (`harness.models`)."""
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
"""CLIP's, as Qwen2-VL's processors use."""

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


class Qwen2VL(Family):
    """Two sampled frames are one step of time, a cell is one visual token, positions are M-RoPE's."""

    name = "micro-qwen2-vl"
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    tail = "<|im_end|>\n<|im_start|>assistant\n"
    video = longer = VIDEO_FORMATS
    image = IMAGE_FORMATS
    bare = IMAGE_FORMATS["VQA"]

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

    def new_model(self, tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2VLForConditionalGeneration:
        return new_model(tokenizer, seed)

    def processor(self, tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
        """Its settings leave micro images and frames at their own size."""
        size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
        pixels = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
        return Qwen2VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=size, **pixels),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False, **pixels),
            chat_template=CHAT_TEMPLATE,
        )

    def layout(self, *, video: bool, side: int, larger: bool = False) -> Layout:
        return _layout(video, side, larger)

    def encode(
        self, model: Any, pixels: Tensor, *, video: bool, noise: torch.Generator | None, larger: bool = False
    ) -> Tensor:
        if larger:
            pixels = pixels[:, segment_of(LONGER // 2)] if video else resized(pixels, LARGER * CELL)
        segments, side = pixels.shape[1], pixels.shape[2] // CELL
        tokens = encode_vision(model, patches(pixels, noise), segments, side)
        return tokens.view(pixels.shape[0], segments * side * side, -1)

    def load(self, folder: Path) -> tuple[Any, Any]:
        model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        return model, Qwen2VLProcessor.from_pretrained(folder)

    def inputs(
        self, processor: Any, scene: Scene, pictures: Tensor, text: str, form: PromptFormat, *, larger: bool = False
    ) -> Any:
        kind = "video" if scene.segments > 1 else "image"
        media = f"<|vision_start|><|{kind}_pad|><|vision_end|>"
        body = text + media if form.question_first else form.before + media + form.after + text
        shown = pictures.permute(0, 3, 1, 2)
        given: dict[str, Any] = {"images": [shown[0]]}
        if scene.segments > 1:
            frames = shown.repeat_interleave(LONGER // SEGMENTS if larger else 2, dim=0)
            given = {"videos": [frames], "do_sample_frames": False}
        elif larger:
            pixels = (LARGER * CELL) ** 2
            given["images_kwargs"] = {"size": {"shortest_edge": pixels, "longest_edge": pixels}}
        return processor(text=[self.head + body + self.tail], return_tensors="pt", **given)


@cache
def _layout(video: bool, side: int, larger: bool) -> Layout:
    segments = SEGMENTS if video else 1
    steps = LONGER // 2 if video and larger else segments
    rows = side if video or not larger else LARGER
    kind = "video" if video else "image"
    axes = torch.meshgrid(torch.arange(steps), torch.arange(rows), torch.arange(rows), indexing="ij")
    return Layout(
        grid=(segments, side, side),
        pieces=("<|vision_start|>", steps * rows * rows, "<|vision_end|>"),
        pad=f"<|{kind}_pad|>",
        extents=over_time(cells(rows, rows), steps),
        places=torch.stack([axis.flatten() for axis in axes], dim=1),
    )


def patches(pixels: Tensor, noise: torch.Generator | None = None) -> Tensor:
    """What the processor makes of the pictures, each shown in two frames: float [B * T * h * w * 4, 3 * 2 * 14 * 14].

    Args:
        pixels: uint8 [B, T, H, W, 3].
        noise: if given, a little Gaussian noise and a video codec's coarse colour are added, anew in each frame.
    """
    batch, segments, height, width, _ = pixels.shape
    x = pixels.float().div(255).permute(0, 1, 4, 2, 3).repeat_interleave(2, dim=1)
    x = disturbed(x, noise).view(batch, segments, 2, 3, height, width)
    x = (x - MEAN[:, None, None]) / STD[:, None, None]
    x = x.view(batch, segments, 2, 3, height // 28, 2, 14, width // 28, 2, 14)
    return x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * 2 * 14 * 14)


def encode_vision(model: Qwen2VLForConditionalGeneration, pixel_patches: Tensor, segments: int, side: int) -> Tensor:
    """Visual tokens of many equal grids at once: float [grids * segments * side * side, d] from processor patches."""
    visual = model.model.visual
    per_segment = 4 * side * side
    x = F.linear(pixel_patches, visual.patch_embed.proj.weight.flatten(1))
    x = x.view(-1, per_segment, visual.patch_embed.embed_dim)
    # Patches come in blocks of two by two, the order in which the merger joins them.
    at = torch.arange(2 * side).view(side, 2)
    rows = at[:, None, :, None].expand(side, side, 2, 2).reshape(-1)
    cols = at[None, :, None, :].expand(side, side, 2, 2).reshape(-1)
    cos, sin = visual.rotary_pos_emb(x, torch.stack([rows, cols], dim=-1))
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(-1, per_segment, 3, attention.num_heads, attention.head_dim)
        q, k, v = qkv.unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        weights = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * attention.scaling).softmax(-1)
        x = x + attention.proj((weights.to(v.dtype) @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x)


def micro_config(tokenizer: Qwen2Tokenizer) -> Qwen2VLConfig:
    """1.4 M parameters: 6 layers of width 128 over a vision tower of 2 layers of width 64."""
    token = tokenizer.get_vocab().__getitem__
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            # With the usual 1e6 the height and width frequencies hardly move over a grid of six by six.
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 128,
            "num_heads": 4,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def new_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2VLForConditionalGeneration:
    """An untrained model whose first guess is to look a word up among the visual tokens and to say what it finds.

    Hugging Face's constant 0.02 leaves the model at chance for longer than the whole budget. What shortens it: fan-in
    initialisation with small outputs of the residual branches; in the layers that match words (1, 2, 3 and 5), queries
    that start equal to keys; in the layers that carry what was found (3 and 4), two heads that start as copies; output
    words that start as the input words.
    """
    generator = torch.Generator().manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(micro_config(tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                if name.endswith("bias"):
                    parameter.zero_()
                continue
            fan_in = parameter[0].numel()
            scale = 0.1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            std = 0.09 if "embed_tokens" in name or "lm_head" in name else scale * fan_in**-0.5
            parameter.normal_(0.0, std, generator=generator)
        layers: list[Any] = [layer.self_attn for layer in model.model.language_model.layers]
        for attention in (layers[1], layers[2], layers[3], layers[5]):
            keys = attention.k_proj.weight.view(-1, attention.head_dim, attention.hidden_size)
            queries = keys.repeat_interleave(attention.num_key_value_groups, 0)
            attention.q_proj.weight.copy_(queries.reshape_as(attention.q_proj.weight))
        for attention in (layers[3], layers[4]):
            size = attention.head_dim
            values = attention.v_proj.weight[:size]
            for head in range(attention.num_key_value_groups):
                attention.o_proj.weight[:, head * size : (head + 1) * size] = 0.25 * values.T
        _tie_at_first(model, tokenizer)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=[tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")],
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    return model


def _tie_at_first(model: Qwen2VLForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> None:
    """'red' as an answer and ' red' inside a question start as one word, and so do reading and saying it."""
    vocabulary = tokenizer.get_vocab()
    embedding: Any = model.get_input_embeddings()
    for piece, index in vocabulary.items():
        if piece.startswith("\u0120") and piece[1:] in vocabulary:
            embedding.weight[index] = embedding.weight[vocabulary[piece[1:]]]
    model.lm_head.weight.copy_(embedding.weight)
