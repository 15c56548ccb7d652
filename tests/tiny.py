"""A tiny random Qwen2-VL and LLaVA-OneVision with real processors, for tests: CPU, offline, 0.6 MB, built in no time.

Everything around the weights is real: the Hugging Face classes, a byte-level tokenizer for any text, the special
tokens and the chat template of the family, and processor files that ``from_pretrained`` reads.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
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

LLAVA_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")

# As the Hugging Face port has it: no system message, a space after the role, pictures first, no newline at the end.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] if content['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] if content['type'] == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] if content['type'] == 'text' %}{{ content['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TILE = 3 * 14
"""Side in pixels of a tile of the tiny LLaVA-OneVision: 3 x 3 tokens, an odd number as in the real one."""
CANVASES = [[TILE, TILE], [TILE, 2 * TILE], [TILE, 3 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE], [3 * TILE, TILE]]

PATCH, MERGE = 14, 2
TOKEN_PIXELS = PATCH * MERGE
"""Side of the square of pixels behind one visual token."""


def byte_tokenizer(
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS, chat_template: str = CHAT_TEMPLATE
) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer whose vocabulary is the 256 bytes and a family's special tokens: it encodes any text."""
    # GPT-2's printable alphabet for bytes: printable bytes stand for themselves, the others for chr(256 + n).
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(alphabet)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special_tokens),
        chat_template=chat_template,
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
    return _once(_build_qwen2_vl, folder, seed, text)


def tiny_llava_onevision(folder: Path | str | None = None, *, seed: int = 0, **text: Any) -> Path:
    """`tiny_qwen2_vl` for LLaVA-OneVision: a Qwen2 decoder under a SigLIP tower, images in up to 4 tiles."""
    return _once(_build_llava_onevision, folder, seed, text)


def add_compressors(folder: Path) -> None:
    """Puts random compressors for images and videos into a checkpoint folder, where `cnn` looks for them."""
    for media in ("image", "video"):
        torch.manual_seed(1)
        Compressor(folder.name, media=media, input_scale="mean").save_pretrained(folder / f"compressor-{media}")


_built: dict[str, Path] = {}


def own_folder() -> Path:
    """A new temporary folder, which goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="retain-tiny-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []  # one that nobody holds is removed at once


def _once(build: Any, folder: Path | str | None, seed: int, text: dict[str, Any]) -> Path:
    if folder is not None:
        return build(Path(folder), seed, text)
    key = repr((build.__name__, seed, sorted(text.items())))
    if key not in _built:
        _built[key] = build(own_folder(), seed, text)
    return _built[key]


def _build_qwen2_vl(folder: Path, seed: int, text: dict[str, Any]) -> Path:
    tokenizer = byte_tokenizer()
    token: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}
    text_config = _text_config(tokenizer, {"rope_parameters": rope, **text})
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
    _save(Qwen2VLForConditionalGeneration(config), token, folder, seed)
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


def _build_llava_onevision(folder: Path, seed: int, text: dict[str, Any]) -> Path:
    tokenizer = byte_tokenizer(LLAVA_TOKENS, LLAVA_TEMPLATE)
    token: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in LLAVA_TOKENS}
    rope = {"rope_type": "default", "rope_theta": 100.0}
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text_config(tokenizer, {"rope_parameters": rope, **text})},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": TILE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        image_token_index=token["<image>"],
        video_token_index=token["<video>"],
        image_grid_pinpoints=CANVASES,
        tie_word_embeddings=False,
    )
    _save(LlavaOnevisionForConditionalGeneration(config), token, folder, seed)
    look: dict[str, Any] = {"size": {"height": TILE, "width": TILE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=CANVASES, **look),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**look),
        num_image_tokens=(TILE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def _text_config(tokenizer: Qwen2Tokenizer, overrides: dict[str, Any]) -> dict[str, Any]:
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "bos_token_id": end,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": end,
        **overrides,
    }


def _save(model: Any, token: dict[str, int], folder: Path, seed: int) -> None:
    """Draws the weights and saves the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The default std of 0.02 gives all but uniform attention, where every method's scores would be ties.
            if parameter.ndim == 1:
                if name.endswith(("bias", "image_newline")):
                    parameter.normal_(0.0, 0.1, generator=generator)
                continue
            if "embed_tokens" in name:
                std = 1.0
            elif "patch_embed" in name or "position_embed" in name:
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
    model.eval().save_pretrained(folder)
