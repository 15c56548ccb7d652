"""How many frames and pixels a model is shown, so that a prompt has about a given number of visual tokens.

A model's own settings (`harness.models`: the paper's, 8 frames of 504 x 504 pixels for Qwen2-VL) are kept where they
fit the budget and lowered where they do not; a budget that the user asked for raises them to it as well (`raised`):

- Qwen2-VL: the pixels of an image, or of a frame, so that all frames together fit; their number stays.
- LLaVA-OneVision: the number of frames; for images the largest canvas that fits.
- VILA: the number of frames; an image always has the same number of tokens.

A number of frames that the user asked for is never raised. A prompt counts as near the
budget up to 5% above it, since the paper's 'approximately 1500' are 1,569 and 1,568 tokens for 8 frames. What is still
longer (Qwen2-VL rounds the sides of unusual shapes up) is not asked; the caller counts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.compressor.sources import Kind
from harness.models import ModelInfo
from model_wrappers.errors import UserError

NEAR = 1.05
FRAMES = 8
"""Of a model whose entry does not say: the paper's."""


def limit(max_visual: int) -> int:
    """The most visual tokens that count as near `max_visual`."""
    return int(max_visual * NEAR)


def settings(
    info: ModelInfo, media: Kind, max_visual: int, frames: int | None = None, *, raised: bool = False
) -> dict[str, Any]:
    """Settings for `harness.models.open_model`, over the model's own.

    Args:
        info: the model; its checkpoint's configuration is read, from the hub where it lies there.
        media: what the prompts show: one image, or one video.
        max_visual: visual tokens that a prompt should have at most, about.
        frames: of a video; None: the model's own, or 8.
        raised: whether pixels, or frames of a model whose frames have one size, go up to `max_visual` too.

    Raises:
        UserError: not even one frame, or one image of a model whose images have one size, fits.
    """
    from model_wrappers.families.checkpoint import find_checkpoint

    config = _config(info, find_checkpoint(info.path_or_hub_id, info.revision))
    wanted = frames or info.defaults.get("nframe") or FRAMES
    if info.family == "qwen2_vl":
        return _qwen2_vl(config, info.defaults, media, max_visual, wanted, raised)
    if raised and frames is None:
        wanted = limit(max_visual)  # more than fit, so that as many are taken as do
    if info.family == "llava_onevision":
        side = config.vision_config.image_size // config.vision_config.patch_size
        if media == "image":
            given = None if raised else info.defaults.get("max_pixels")
            return {"max_pixels": _largest_canvas(config, side, given, limit(max_visual))}
        return {"nframe": _fitting(info.name, wanted, (-(-side // 2)) ** 2, 1, max_visual)}
    tokens = config.n_image_tokens
    return {"nframe": _fitting(info.name, wanted if media == "video" else 1, tokens, 0, max_visual)}


def _config(info: ModelInfo, folder: Path) -> Any:
    if info.family in ("llava_llama", "retain_vila"):
        from model_wrappers.vila.hub import hub_config
        from model_wrappers.vila.layout import is_hub_layout

        if is_hub_layout(folder):
            return hub_config(folder)
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def _qwen2_vl(
    config: Any, given: dict[str, Any], media: Kind, max_visual: int, frames: int, raised: bool
) -> dict[str, Any]:
    """A visual token shows a square of pixels, of a video in two frames."""
    square = (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2
    if media == "image" and given.get("image_pixels"):
        most = max_visual * square
        return {"image_pixels": most if raised else min(given["image_pixels"], most)}
    most = max(1, max_visual // (-(-frames // 2) if media == "video" else 1)) * square
    largest = most if raised else min(given.get("max_pixels") or most, most)
    least = given.get("min_pixels") or square
    least = largest if raised and least > square else least  # a model with a floor enlarges small pictures to it
    smallest = min(least, largest if largest < most else int(0.8 * largest))
    found: dict[str, Any] = {"max_pixels": largest, "min_pixels": smallest}
    return {**found, "nframe": frames} if media == "video" else found


def _fitting(name: str, frames: int, tokens: int, more: int, max_visual: int) -> int:
    """At most `frames`, of `tokens` visual tokens each and `more` for all, that are near the budget."""
    most = (limit(max_visual) - more) // tokens
    if most < 1:
        raise UserError(f"--max-visual {max_visual}: one image or frame of {name} has {tokens + more} visual tokens")
    return min(frames, most)


def _largest_canvas(config: Any, side: int, given: int | None, most: int) -> int:
    """Pixels of the largest canvas up to which all fit: the squashed whole, the tiles, and a newline a row."""
    tile = config.vision_config.image_size
    fitting = 0
    for height, width in sorted(config.image_grid_pinpoints, key=lambda canvas: canvas[0] * canvas[1]):
        rows, columns = height // tile * side, width // tile * side
        if side**2 + rows * (columns + 1) > most or (given is not None and height * width > given):
            break
        fitting = height * width
    return fitting or min(height * width for height, width in config.image_grid_pinpoints)
