"""From what the processor returned to prompts: the vision encoder and the positions, once a sample."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from model_wrappers.anatomy import VISION_CALLS, embed, visual_token_ids
from model_wrappers.errors import UserError
from model_wrappers.inputs import Input, split
from model_wrappers.prompt import VisualPrompt, split_batch
from model_wrappers.vision import VisionWatch

_KINDS = (("image", "pixel_values"), ("video", "pixel_values_videos"))
"""In the order of `visual_token_ids`; VILA has images only."""


@torch.no_grad()
def encode(model: Any, inputs: Mapping[str, Any], sample_ids: list[str] | None = None) -> list[VisualPrompt]:
    """Runs the vision encoder and places its features among the text embeddings.

    Args:
        model: any that `model_wrappers.compress` takes.
        inputs: what its processor returned: input_ids [B, L], attention_mask, and the family's pixels, grids and sizes;
            on any device, padded on either side.
        sample_ids: one a prompt, seeding methods that draw; None takes a digest of each prompt's ids and grids.

    Returns:
        One prompt a row of the batch, without its padding, on the model's device.

    Raises:
        UserError: if placeholders and vision features differ in number.
    """
    on_device = {name: value.to(model.device) for name, value in inputs.items() if torch.is_tensor(value)}
    ids = on_device["input_ids"]
    embeds = embed(model, ids)
    kinds = torch.zeros_like(ids)
    watch = VisionWatch(model)
    for number, ((kind, pixels), token) in enumerate(zip(_KINDS, visual_token_ids(model), strict=False), start=1):
        places = ids == token
        kinds = kinds.masked_fill(places, number)
        if pixels not in on_device:
            if bool(places.any()):
                raise UserError(f"the prompt has {kind} placeholders but the inputs have no {pixels}")
            continue
        with watch:
            features = _features(model.model, kind, on_device[pixels], on_device)
        if int(places.sum()) != features.shape[0]:
            raise UserError(
                f"the prompt has {int(places.sum())} {kind} placeholders, the vision encoder gave "
                f"{features.shape[0]} features"
            )
        embeds = embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds))
    positions = _positions(model.model, kinds, on_device)
    mask = on_device.get("attention_mask")
    prompts = split_batch(ids, embeds, positions, mask, visual_token_ids(model), sample_ids)
    watch.share(prompts)
    for row, prompt in enumerate(prompts):
        prompt.source = partial(_input, model, inputs, row)
    return prompts


def _input(model: Any, inputs: Mapping[str, Any], row: int) -> Input:
    return split(model, inputs)[row]


def _features(core: Any, kind: str, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """[n, d]: what the vision encoder makes of all images, or of all videos, of the batch."""
    full = getattr(core.config.vision_config, "image_size", None)  # Qwen2-VL's encoder takes any size
    if full is None or pixels.shape[-1] == full:
        return _encoded(core, kind, pixels, inputs)
    if hasattr(core, "image_newline"):
        return _features_of_smaller_tiles(core, kind, pixels, inputs)
    return _encoded(core, kind, pixels, inputs, interpolate_pos_encoding=True)  # VILA


def _features_of_smaller_tiles(core: Any, kind: str, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """[n, d] of LLaVA-OneVision's tiles at another size than the tower's own, its position embeddings interpolated.

    Hugging Face's class reads the size of a tile off its config: it is asked through a view of the same modules whose
    config says the smaller one. A canvas is as many smaller tiles; which of several it would be in their stead is not
    asked anew, so images are encoded one by one.
    """
    full, tile = core.config.vision_config.image_size, pixels.shape[-1]
    view = copy.copy(core)
    for name in VISION_CALLS.values():  # where somebody watches, what was put around the calls is the full model's
        vars(view).pop(name, None)
    view.config = copy.deepcopy(core.config)
    view.config.vision_config.image_size = tile
    interpolated = {"interpolate_pos_encoding": True}
    together = inputs.get("batch_num_images")
    if kind == "video" or (together is not None and len(together) < len(pixels)):
        return _encoded(view, kind, pixels, inputs, **interpolated)
    found = []
    for size, tiles in zip(inputs["image_sizes"], pixels, strict=True):
        canvas = select_best_resolution(size.tolist(), core.config.image_grid_pinpoints)
        view.config.image_grid_pinpoints = [[length // full * tile for length in canvas]]
        found.append(_encoded(view, kind, tiles[None], {"image_sizes": size[None]}, **interpolated))
    return torch.cat(found)


def _encoded(core: Any, kind: str, pixels: Tensor, inputs: dict[str, Tensor], **settings: Any) -> Tensor:
    """Besides the pixels an encoder is given what it asks for by name: grids (Qwen2-VL), sizes (LLaVA-OneVision),
    nothing (VILA).
    """
    encoder = getattr(core, f"get_{kind}_features")
    first, *others = inspect.signature(encoder).parameters
    found = encoder(
        **{first: pixels}, **{name: inputs[name] for name in others if name in inputs}, **settings, return_dict=True
    ).pooler_output
    newline = getattr(core, "image_newline", None)
    if kind == "video" and newline is not None:
        # transformers 5.17 leaves LLaVA-OneVision's newline token behind each video to the caller, 5.18 does not.
        side = core.config.vision_config.image_size // core.config.vision_config.patch_size
        if found.shape[1] == pixels.shape[1] * math.ceil(side / 2) ** 2:
            found = torch.cat((found, newline.to(found).expand(found.shape[0], 1, -1)), dim=1)
    return torch.cat(tuple(found))


def _positions(core: Any, kinds: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """[3, B, L] M-RoPE rows where the family has them, else [1, B, L]: each prompt's rows counted from 0.

    `kinds` [B, L]: 0 for text, 1 for an image's placeholder, 2 for a video's.
    """
    mask = inputs.get("attention_mask")
    if not hasattr(core, "get_rope_index"):
        real = torch.ones_like(kinds) if mask is None else mask.long()
        return (real.cumsum(dim=-1) - 1).clamp_min(0)[None]
    positions, _ = core.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs.get("mm_token_type_ids", kinds),
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
        attention_mask=mask,
    )
    return positions
