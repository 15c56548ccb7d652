"""The micro Qwen2-VL: configuration, initialisation, processor. Hugging Face's own classes; nothing here is a model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from harness.micro.scenes import CELL, IMAGE_SIDE, VIDEO_SIDE
from harness.micro.tokenizer import CHAT_TEMPLATE

MIN_PIXELS = (VIDEO_SIDE * CELL) ** 2
MAX_PIXELS = (IMAGE_SIDE * CELL) ** 2
"""A video frame has MIN_PIXELS and an image MAX_PIXELS, so neither is ever resized."""


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


def new_processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """The processor whose settings leave micro images and frames at their own size."""
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=14, merge_size=2, temporal_patch_size=2),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            size=size, patch_size=14, merge_size=2, temporal_patch_size=2, cap_pixels_per_frame=False
        ),
        chat_template=CHAT_TEMPLATE,
    )
