"""Published models without their checkpoints: time depends on sizes only."""

from __future__ import annotations

import copy
from typing import Any

from harness.published import CONFIGS
from model_wrappers.errors import UserError

_IDS = {name.partition("/")[2]: name for name in CONFIGS}


def shape_names() -> list[str]:
    """Models whose shapes are known here, without the hub's user."""
    return list(_IDS)


def known_shape(name: str) -> str:
    """The published model of this name. Raises UserError, listing the known ones, for any other."""
    if name not in _IDS:
        raise UserError(f"--random-weights: the shape of {name!r} is not known; known are {', '.join(_IDS)}")
    return _IDS[name]


def config_of(name: str) -> Any:
    """The config of a published model, made here.

    Raises:
        UserError: another model.
    """
    from transformers import LlavaOnevisionConfig, Qwen2VLConfig

    from model_wrappers.vila.config import VilaConfig

    made: dict[str, Any] = {each.model_type: each for each in (Qwen2VLConfig, LlavaOnevisionConfig, VilaConfig)}
    content = copy.deepcopy(CONFIGS[known_shape(name)])
    return made[content.pop("model_type")](**content)


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
