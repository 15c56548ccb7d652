"""Loads VILA1.5 from the folder layout in which it is published; `save_pretrained` of the result converts it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast, SiglipImageProcessorPil, SiglipVisionConfig

from model_wrappers.errors import UserError
from model_wrappers.vila.config import VilaConfig
from model_wrappers.vila.layout import LLM, PROJECTOR, TOWER, WEIGHTS, check_vila_folder, read_configs
from model_wrappers.vila.model import VilaForConditionalGeneration
from model_wrappers.vila.processor import VilaProcessor
from model_wrappers.vila.templates import TEMPLATES


def hub_config(folder: Path) -> VilaConfig:
    """The configuration that the four config.json of a published folder amount to.

    Its dtype is the one that the decoder's weights are stored in, so far as the file says.
    """
    configs = read_configs(folder)
    text = LlamaConfig.from_dict(configs.llm)
    return VilaConfig(
        text_config=text,
        vision_config=SiglipVisionConfig.from_dict({**configs.tower, "vision_use_head": False}),
        vision_feature_layer=configs.root.get("mm_vision_select_layer", -2),
        token_order=configs.root.get("token_order") or "column",
        tie_word_embeddings=text.tie_word_embeddings,
        dtype=text.dtype,
    )


def load_hub_layout(
    folder: Path, dtype: str | torch.dtype = "auto", attn_implementation: str = "sdpa"
) -> VilaForConditionalGeneration:
    """The model of a published folder, on the CPU.

    Args:
        folder: with `llm/`, `vision_tower/` and `mm_projector/`.
        dtype: of the weights; `auto` is the one that the decoder's embedding is stored in.
        attn_implementation: `sdpa`, `eager` or `flash_attention_2`, for tower and decoder.

    Raises:
        UserError: a file is missing or broken, or its tensors are not the ones that its config.json promises.
    """
    check_vila_folder(folder)
    config = hub_config(folder)
    weights = _weights(folder)
    _check_tensors(folder, config, weights)
    stored = weights["model.language_model.embed_tokens.weight"].dtype
    model = VilaForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=stored if dtype == "auto" else dtype,
        attn_implementation=attn_implementation,
    )
    model.generation_config = load_hub_processor(folder).generation_config()
    model.name_or_path = str(folder)
    return model.eval()


def load_hub_processor(folder: Path) -> VilaProcessor:
    """The processor of a published folder; its conversation is `template` of the root config.json, or `llama_3`.

    Raises:
        UserError: a file is missing or broken, or the preprocessor's size is not the tower's.
    """
    configs, config = read_configs(folder), hub_config(folder)
    images = SiglipImageProcessorPil.from_pretrained(folder / TOWER)
    side = config.vision_config.image_size
    if (images.size["height"], images.size["width"]) != (side, side):
        path = folder / TOWER / "preprocessor_config.json"
        raise UserError(f"{path} makes images of {dict(images.size)}; the tower takes {side} x {side}.")
    return VilaProcessor(
        images,
        PreTrainedTokenizerFast.from_pretrained(folder / LLM),
        image_token_id=config.image_token_id,
        n_image_tokens=config.n_image_tokens,
        max_length=configs.llm.get("tokenizer_model_max_length"),
        chat_template=TEMPLATES[configs.root.get("template") or "llama_3"],
    )


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors under the names of `VilaForConditionalGeneration`; the tower's pooling head is left out."""
    weights = {}
    for name, tensor in _part(folder / LLM).items():
        weights[name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name] = tensor
    for name, tensor in _part(folder / TOWER).items():
        name = name.removeprefix("vision_model.")
        if not name.startswith("head."):
            weights[f"model.vision_tower.{name}"] = tensor
    for name, tensor in _part(folder / PROJECTOR).items():
        weights[f"model.multi_modal_projector.{name.removeprefix('mm_projector.')}"] = tensor
    return weights


def _part(folder: Path) -> dict[str, Tensor]:
    """The tensors of one part, from one file or from its shards; read from disk when they are used."""
    if (folder / WEIGHTS).exists():
        return load_file(folder / WEIGHTS)
    index = json.loads((folder / f"{WEIGHTS}.index.json").read_text("utf-8"))
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index["weight_map"].values())):
        tensors.update(load_file(folder / shard))
    return tensors


def _check_tensors(folder: Path, config: VilaConfig, weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        expected = VilaForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
    for name, tensor in expected.items():
        if name not in weights:
            raise UserError(f"The weights of {folder} lack {name}.")
        if weights[name].shape != tensor.shape:
            has, should = tuple(weights[name].shape), tuple(tensor.shape)
            raise UserError(f"In the weights of {folder}, {name} is {has} where the config promises {should}.")
