"""Where the parts of a Hugging Face multimodal model are: the only module that knows attribute names."""

from __future__ import annotations

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
