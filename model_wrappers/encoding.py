"""From what the processor returned to prompts: the vision encoder and the M-RoPE index, once a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from model_wrappers.anatomy import visual_token_ids
from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt, split_batch


@torch.no_grad()
def encode(model: Any, inputs: Mapping[str, Any], sample_ids: list[str] | None = None) -> list[VisualPrompt]:
    """Runs the vision encoder and places its features among the text embeddings.

    Args:
        model: a Qwen2VLForConditionalGeneration.
        inputs: what its processor returned (input_ids [B, L], attention_mask, pixel_values, image_grid_thw,
            pixel_values_videos, video_grid_thw, mm_token_type_ids), on any device.
        sample_ids: one a prompt, seeding methods that draw; None takes a digest of each prompt's ids and grids.

    Returns:
        One prompt a row of the batch, without its padding, on the model's device.

    Raises:
        UserError: if placeholders and vision features differ in number.
    """
    on_device = {name: value.to(model.device) for name, value in inputs.items() if torch.is_tensor(value)}
    ids = on_device["input_ids"]
    mask = on_device.get("attention_mask")
    embeds = model.get_input_embeddings()(ids)
    kinds = torch.zeros_like(ids)
    sources = (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    )
    for number, ((kind, pixels, grid), token) in enumerate(zip(sources, visual_token_ids(model), strict=True), start=1):
        places = ids == token
        kinds = kinds.masked_fill(places, number)
        if pixels not in on_device:
            if bool(places.any()):
                raise UserError(f"the prompt has {kind} placeholders but the inputs have no {pixels}")
            continue
        encoder = getattr(model.model, f"get_{kind}_features")
        features = torch.cat(tuple(encoder(on_device[pixels], on_device[grid], return_dict=True).pooler_output))
        if int(places.sum()) != features.shape[0]:
            raise UserError(
                f"the prompt has {int(places.sum())} {kind} placeholders, the vision encoder gave "
                f"{features.shape[0]} features"
            )
        embeds = embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds))
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=on_device.get("mm_token_type_ids", kinds),
        image_grid_thw=on_device.get("image_grid_thw"),
        video_grid_thw=on_device.get("video_grid_thw"),
        attention_mask=mask,
    )
    return split_batch(ids, embeds, positions, mask, visual_token_ids(model), sample_ids)
