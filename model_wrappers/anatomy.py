"""Where the parts of a Hugging Face multimodal model are: the only module that knows attribute names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_wrappers.errors import UserError


def language_model(model: nn.Module) -> Any:
    """The decoder stack (`layers`, `rotary_emb`, `norm`), without vision encoder and output head.

    Raises:
        UserError: if the model is of no known family.
    """
    decoder = getattr(getattr(model, "model", None), "language_model", None)
    if decoder is None or not hasattr(decoder, "layers"):
        raise UserError(
            "compression knows multimodal models such as Qwen2VLForConditionalGeneration and "
            f"LlavaOnevisionForConditionalGeneration, not {type(model).__name__}: it needs model.model.language_model "
            "with its layers"
        )
    return decoder


def n_layers(model: nn.Module) -> int:
    """Number of decoder layers."""
    return len(language_model(model).layers)


def visual_token_ids(model: Any) -> tuple[int, ...]:
    """Placeholder ids of visual tokens: image first, then video where the family has one."""
    config = model.config
    found = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
    return tuple(token for token in found if token is not None)


def embed(model: Any, input_ids: Tensor) -> Tensor:
    """Embeddings [..., d] of token ids; a placeholder outside the vocabulary gets id 0's, to be overwritten."""
    table = model.get_input_embeddings()
    for token in visual_token_ids(model):
        if token >= table.num_embeddings:
            input_ids = torch.where(input_ids == token, 0, input_ids)
    return table(input_ids)


def mllm_name(model: Any) -> str:
    """The checkpoint's own name: last part of the hub id or of the folder it was loaded from; '' where there is
    none."""
    path = Path(getattr(model, "name_or_path", "") or "")
    if path.parent.name == "snapshots":  # hub cache: models--Qwen--Qwen2-VL-7B-Instruct/snapshots/<revision>
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


VISION_CALLS = {"image": "get_image_features", "video": "get_video_features"}
"""The methods of model.model that run the vision encoder, in the order of `visual_token_ids`."""


def tower_layer(core: Any) -> Any:
    """The layer before the last of the vision encoder, of model.model."""
    tower = core.visual if hasattr(core, "visual") else core.vision_tower
    if hasattr(tower, "blocks"):
        return tower.blocks[-2]
    return getattr(tower, "vision_model", tower).encoder.layers[-2]


def tower_projections(core: Any, inputs: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries and keys of `tower_layer` for what it was called with.

    Yields for each group of P patches that attend to each other (an image, a tile, a frame): queries, scaled, and keys
    [heads, P, head_dim], and keys without RoPE, mean over heads [P, head_dim] float32.
    """
    layer, hidden = tower_layer(core), inputs["hidden_states"]
    if not hasattr(layer, "attn"):  # SigLIP: [tiles, P, C]
        attention = layer.self_attn
        normed = layer.layer_norm1(hidden)
        split = (*normed.shape[:2], -1, attention.head_dim)
        queries = (attention.q_proj(normed) * attention.scale).view(split).transpose(1, 2)
        keys = attention.k_proj(normed).view(split).transpose(1, 2)
        for query, key in zip(queries, keys, strict=True):
            yield query, key, key.float().mean(dim=0)
        return
    attention = layer.attn  # Qwen2-VL: [patches of all, C], frames told apart by cu_seqlens
    query, plain, _ = attention.qkv(layer.norm1(hidden)).view(len(hidden), 3, attention.num_heads, -1).unbind(1)
    cos, sin = (table.float()[:, None] for table in inputs["position_embeddings"])
    query, key = (states.float() * cos + _turned(states.float()) * sin for states in (query, plain))
    lengths = inputs["cu_seqlens"].diff().tolist()
    parts = (states.split(lengths) for states in (query * attention.scaling, key, plain))
    for one, other, own in zip(*parts, strict=True):
        yield one.transpose(0, 1), other.transpose(0, 1), own.float().mean(dim=1)


def _turned(states: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def tower_to_tokens(core: Any, kind: str, patches: list[Tensor], packing: dict[str, Any]) -> Tensor:
    """Values of patches as values of visual tokens, the way that the features go.

    Args:
        kind: "image" or "video".
        patches: of each group of `tower_projections` [P, C] float32.
        packing: `calls`, how many images or videos; of LLaVA-OneVision's images their `tiles` and what else
            `pack_image_features` was given.

    Returns:
        [n, C] float32, in the order of the features; a newline has NaN.
    """
    if hasattr(core, "visual"):  # Qwen2-VL: neighbouring patches follow each other
        return torch.cat(patches).view(-1, core.visual.spatial_merge_size**2, patches[0].shape[1]).mean(dim=1)
    stacked = torch.stack(patches)
    if not hasattr(core, "image_newline"):  # VILA: the zeros beside an odd grid do not count
        by_four = core.multi_modal_projector.layers[0]
        total, count = (by_four(part).unflatten(-1, (4, -1)).sum(dim=2) for part in (stacked, torch.ones_like(stacked)))
        return (total / count).flatten(0, 1)
    newline = stacked.new_full((stacked.shape[2],), torch.nan)
    if kind == "image":
        settings = {name: packing[name] for name in ("image_sizes", "vision_aspect_ratio") if name in packing}
        return torch.cat(
            core.pack_image_features(stacked.split(packing["tiles"]), image_newline=newline, **settings)[0]
        )
    pooled, videos = core.apply_pooling(stacked), packing["calls"]
    pooled = pooled.reshape(videos, -1, pooled.shape[2])
    return torch.cat((pooled, newline.expand(videos, 1, -1)), dim=1).flatten(0, 1)


def tokens_a_frame(model: Any) -> int:
    """Visual tokens of a video's frame where all have equally many: VILA and LLaVA-OneVision."""
    config = model.config
    if hasattr(config, "n_cells"):
        return config.n_cells**2
    return math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2) ** 2
