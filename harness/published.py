"""What the config.json of published checkpoints says of sizes: to count them and to time them without weights.

Written down from the published files' widths, heads and layers. Nobody has held the vocabularies against the files
(LLaVA-OneVision's are from memory, VILA's is inferred from its training code): they are the rows of one output head.
"""

from __future__ import annotations

from typing import Any

_QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_QWEN2_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
_QWEN2_0_5B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
_LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_ROPE = {"rope_type": "default", "rope_theta": 1000000.0}


def _qwen2_vl(text: dict[str, Any], vocabulary: int, tied: bool) -> dict[str, Any]:
    rope = {**_ROPE, "mrope_section": [16, 24, 24]}
    return {
        "model_type": "qwen2_vl",
        "text_config": {
            **text,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768,
            "rope_parameters": rope,
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "hidden_size": text["hidden_size"],
        },
        "image_token_id": 151655,
        "video_token_id": 151656,
        "tie_word_embeddings": tied,
    }


def _llava_onevision(text: dict[str, Any], vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llava_onevision",
        "text_config": {
            "model_type": "qwen2",
            **text,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768,
            "rope_parameters": _ROPE,
        },
        "vision_config": {"num_hidden_layers": 26, **_SIGLIP},
        "image_token_index": 151646,
        "video_token_index": 151647,
        "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
        "vision_aspect_ratio": "anyres_max_9",
        "tie_word_embeddings": tied,
    }


_VILA = {
    "model_type": "retain_vila",
    "text_config": {**_LLAMA_3_8B, "vocab_size": 128257},
    "vision_config": {"num_hidden_layers": 27, **_SIGLIP},
    "tie_word_embeddings": False,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2_vl(_QWEN2_1_5B, 151936, True),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2_vl(_QWEN2_7B, 152064, False),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _llava_onevision(_QWEN2_0_5B, 152000, True),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _llava_onevision(_QWEN2_7B, 152128, False),
    "Efficient-Large-Model/Llama-3-VILA1.5-8b": _VILA,
    "Efficient-Large-Model/Llama-3-VILA1.5-8B-Fix": _VILA,
}
"""By hub id; VILA in the layout of `model_wrappers.vila`. All are stored in 16 bits."""
