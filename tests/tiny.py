"""A tiny random Qwen2-VL with a real processor, for tests: CPU, offline, 0.6 MB, built in well under a second.

Everything around the weights is real: the Hugging Face classes, a byte-level tokenizer for any text, the special
tokens and the chat template of Qwen2-VL, and processor files that ``from_pretrained`` reads.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
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

from model_wrappers.compressor import Compressor

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

PATCH, MERGE = 14, 2
TOKEN_PIXELS = PATCH * MERGE
"""Side of the square of pixels behind one visual token."""


def byte_tokenizer() -> Qwen2Tokenizer:
    """A Qwen2 tokenizer whose vocabulary is the 256 bytes and Qwen2-VL's special tokens: it encodes any text."""
    # GPT-2's printable alphabet for bytes: printable bytes stand for themselves, the others for chr(256 + n).
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(alphabet)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )
    return tokenizer


def tiny_qwen2_vl(folder: Path | str | None = None, *, seed: int = 0, **text: Any) -> Path:
    """Saves the tiny checkpoint (model and processor) and returns its folder.

    Args:
        folder: where to save; None makes one temporary folder a process for each seed and set of overrides.
        seed: of the random weights.
        text: overrides of the text config, such as ``num_hidden_layers=4``.
    """
    if folder is not None:
        return _build(Path(folder), seed, text)
    key = repr((seed, sorted(text.items())))
    if key not in _built:
        _built[key] = _build(Path(tempfile.mkdtemp(prefix="tiny-qwen2-vl-")), seed, text)
    return _built[key]


def add_compressors(folder: Path) -> None:
    """Puts random compressors for images and videos into a checkpoint folder, where `cnn` looks for them."""
    for media in ("image", "video"):
        torch.manual_seed(1)
        Compressor(folder.name, media=media, input_scale="mean").save_pretrained(folder / f"compressor-{media}")


_built: dict[str, Path] = {}


def _build(folder: Path, seed: int, text: dict[str, Any]) -> Path:
    tokenizer = byte_tokenizer()
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    text_config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
        **text,
    }
    config = Qwen2VLConfig(
        text_config=text_config,
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": text_config["hidden_size"],
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    generator = torch.Generator().manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The default std of 0.02 gives all but uniform attention, where every method's scores would be ties.
            if parameter.ndim == 1:
                if name.endswith("bias"):
                    parameter.normal_(0.0, 0.1, generator=generator)
                continue
            if "embed_tokens" in name:
                std = 1.0
            elif "patch_embed" in name:
                std = 0.05
            else:
                std = 1.4 / parameter[0].numel() ** 0.5
            parameter.normal_(0.0, std, generator=generator)
    model.generation_config = GenerationConfig(
        bos_token_id=token["<|endoftext|>"],
        eos_token_id=[token["<|im_end|>"], token["<|endoftext|>"]],
        pad_token_id=token["<|endoftext|>"],
        do_sample=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    pixels = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    size = {"shortest_edge": TOKEN_PIXELS**2, "longest_edge": 64 * TOKEN_PIXELS**2}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size, do_sample_frames=False, **pixels),
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder
