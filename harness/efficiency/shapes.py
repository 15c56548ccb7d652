"""Shapes of published models, so that one can be measured without its checkpoint: time depends on sizes only.

Widths, heads and layers are those of the published config.json files; only what costs time or memory is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model_wrappers.errors import UserError

_QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
_QWEN2_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
}
_QWEN2_0_5B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 152000,
}
_LLAMA3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128257,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
_SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_ROPE = {"rope_type": "default", "rope_theta": 1000000.0}
_LONGEST = 32768


def _qwen2_vl(text: dict[str, Any], tied: bool) -> Any:
    from transformers import Qwen2VLConfig

    rope = {**_ROPE, "mrope_section": [16, 24, 24]}
    return Qwen2VLConfig(
        text_config={**text, "max_position_embeddings": _LONGEST, "rope_parameters": rope},
        vision_config={
            "depth": 32,
            "embed_dim": 1280,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "hidden_size": text["hidden_size"],
        },
        image_token_id=151655,
        video_token_id=151656,
        tie_word_embeddings=tied,
    )


def _llava_onevision(text: dict[str, Any], tied: bool) -> Any:
    from transformers import LlavaOnevisionConfig

    text = {**text, "vocab_size": 152000, "max_position_embeddings": _LONGEST, "rope_parameters": _ROPE}
    return LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text},
        vision_config={"model_type": "siglip_vision_model", "num_hidden_layers": 26, **_SIGLIP},
        image_token_index=151646,
        video_token_index=151647,
        image_grid_pinpoints=[[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=tied,
    )


def _vila(text: dict[str, Any], tied: bool) -> Any:
    from model_wrappers.vila.config import VilaConfig

    vision = {"num_hidden_layers": 27, **_SIGLIP}
    return VilaConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


_SHAPES: dict[str, tuple[Callable[[dict[str, Any], bool], Any], dict[str, Any], bool]] = {
    "Qwen2-VL-2B-Instruct": (_qwen2_vl, _QWEN2_1_5B, True),
    "Qwen2-VL-7B-Instruct": (_qwen2_vl, _QWEN2_7B, False),
    "llava-onevision-qwen2-0.5b-ov-hf": (_llava_onevision, _QWEN2_0_5B, True),
    "llava-onevision-qwen2-7b-ov-hf": (_llava_onevision, _QWEN2_7B, False),
    "Llama-3-VILA1.5-8b": (_vila, _LLAMA3_8B, False),
}
"""By name: how its config is made, its language model, and whether that shares its head with its embeddings."""


def shape_names() -> list[str]:
    """Models whose shapes are known here."""
    return list(_SHAPES)


def config_of(name: str) -> Any:
    """The config of a published model, made here.

    Raises:
        UserError: another model.
    """
    if name not in _SHAPES:
        raise UserError(f"--random-weights: the shape of {name!r} is not known; known are {', '.join(_SHAPES)}")
    make, text, tied = _SHAPES[name]
    return make(text, tied)


def cut_layers(config: Any, layers: int) -> None:
    """Leaves `layers` layers at most of the language model and of the vision encoder."""
    text, vision = config.get_text_config(), config.vision_config
    text.num_hidden_layers = min(layers, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    depth = "depth" if hasattr(vision, "depth") else "num_hidden_layers"
    setattr(vision, depth, min(layers, getattr(vision, depth)))


def build(config: Any, device: Any, dtype: Any, attention: str = "sdpa") -> Any:
    """A model of this config with random weights, made on the device itself (`meta`: without any)."""
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration, Qwen2VLForConditionalGeneration

    from model_wrappers.vila.model import VilaForConditionalGeneration

    classes: dict[str, Any] = {
        "qwen2_vl": Qwen2VLForConditionalGeneration,
        "llava_onevision": LlavaOnevisionForConditionalGeneration,
        "retain_vila": VilaForConditionalGeneration,
    }
    torch.manual_seed(0)
    with torch.device(device):
        made = classes[config.model_type]._from_config(config, dtype=dtype, attn_implementation=attention)
    return made.eval()
