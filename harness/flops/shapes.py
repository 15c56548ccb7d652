"""Shapes of models without their weights: from a config.json, on the disk, in memory or of a published checkpoint."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.published import CONFIGS
from model_wrappers.errors import UserError
from model_wrappers.shape import Decoder, PromptSize, Shape, Tiling, Tower

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Of one number, by dtype."""


def shape_of(name: str) -> Shape:
    """The shape of a model: a known name, a hub id of `harness.published`, a folder with a config.json, or such a file.

    Raises UserError where there is none of these, or a config.json does not say what is needed.
    """
    from harness.models import known_place, model_names

    at = Path(name).expanduser()
    if at.is_file():
        return read(at.parent)
    if at.is_dir():
        return read(at)
    where = known_place(name) or name
    if where in CONFIGS:
        return of_config(CONFIGS[where], where)
    if Path(where).is_dir():
        return read(Path(where))
    known = ", ".join([*model_names(), *CONFIGS])
    raise UserError(f"unknown model {name!r}: known are {known}, and the path of a folder with a config.json")


def of_size(name: str, size: str) -> PromptSize:
    """The visual part of a prompt of one image: `size` is its height and width in pixels, such as `384x512`.

    Raises UserError where it is none, or the model does not lay images out in tiles.
    """
    tower = shape_of(name).tower
    if tower is None or tower.tiling is None or tower.patches is None:
        raise UserError(f"--size {size}: {name} lays no image out in tiles, allowed is --tokens")
    if not (sides := re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", size)):
        raise UserError(f"--size {size}: allowed are a height and a width in pixels, such as 384x512")
    pixels = int(sides[1]), int(sides[2])
    visual = tower.tiling.tokens(pixels, math.isqrt(tower.patches))
    return PromptSize(visual, pictures=tower.tiling.pictures(pixels), size=pixels)


def read(folder: Path) -> Shape:
    """The shape that a folder's config.json tells; VILA as it is published has one for each part.

    The tower is None where the config is of a family that nobody here counts. Raises UserError where a file cannot be
    read or lacks a number.
    """
    root = _Config.read(folder / "config.json")
    if (folder / "llm" / "config.json").is_file():
        text = _Config.read(folder / "llm" / "config.json")
        tower = _published_vila_tower(folder, text)
        return Shape(_decoder(text), tower, _number_bytes(text, root), "llava_llama")
    return _of(root)


def of_config(content: Mapping[str, Any], name: str) -> Shape:
    """`read` of what a config.json holds; `name` is what a complaint calls it."""
    return _of(_Config(Path(name), content))


def _of(root: _Config) -> Shape:
    text = root.part("text_config") or root
    vision, family = root.part("vision_config"), root.get("model_type")
    tower = None
    if vision is not None and family == "qwen2_vl":
        tower = _qwen2_vl_tower(vision)
    elif vision is not None and family in ("llava_onevision", "retain_vila"):
        tower = _siglip_tower(vision, text.number("hidden_size"), 1 if family == "llava_onevision" else 4)
        tower = replace(tower, tiling=_tiling(root, vision))
    return Shape(_decoder(text), tower, _number_bytes(root, text), str(family))


class _Config:
    """One mapping of a config.json, which complains by the file's name."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path, self.content = path, content
        self.get = content.get

    @classmethod
    def read(cls, path: Path) -> _Config:
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path.parent} has no {path.name}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path} cannot be read: it holds no JSON object")
        return cls(path, content)

    def part(self, name: str) -> _Config | None:
        content = self.get(name)
        return _Config(self.path, content) if isinstance(content, dict) else None

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of `names` that the file gives, a whole number from 1."""
        found = next((self.content[name] for name in names if self.content.get(name) is not None), default)
        if found is None:
            raise UserError(f"{self.path} does not say {names[0]}")
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise UserError(f"{self.path}: {names[0]} is {found!r}, allowed are whole numbers from 1")
        return found


def _decoder(text: _Config) -> Decoder:
    hidden, heads = text.number("hidden_size"), text.number("num_attention_heads")
    return Decoder(
        hidden=hidden,
        ffn=text.number("intermediate_size"),
        layers=text.number("num_hidden_layers"),
        heads=heads,
        kv_heads=text.number("num_key_value_heads", default=heads),
        head_dim=text.number("head_dim", default=max(1, hidden // heads)),
        vocabulary=text.number("vocab_size"),
    )


def _qwen2_vl_tower(vision: _Config) -> Tower:
    width, patch = vision.number("embed_dim"), vision.number("patch_size")
    merged = vision.number("spatial_merge_size") ** 2
    numbers = vision.number("in_channels", "in_chans", default=3) * vision.number("temporal_patch_size") * patch**2
    return Tower(
        width,
        width * vision.number("mlp_ratio"),
        vision.number("depth"),
        numbers,
        merged,
        merged * width,
        heads=vision.number("num_heads"),
    )


def _siglip_tower(vision: _Config, out: int, merged: int) -> Tower:
    patch = vision.number("patch_size")
    side = vision.number("image_size") // patch
    return Tower(
        vision.number("hidden_size"),
        vision.number("intermediate_size"),
        vision.number("num_hidden_layers"),
        vision.number("num_channels", default=3) * patch**2,
        merged,
        out,
        side**2,
        side**2 if merged == 1 else ((side + 1) // 2) ** 2,
        vision.number("num_attention_heads"),
    )


def _tiling(root: _Config, vision: _Config) -> Tiling | None:
    """Of a config that says how an image is laid out in tiles."""
    canvases = root.get("image_grid_pinpoints")
    most = re.fullmatch(r"anyres_max_(\d+)", str(root.get("vision_aspect_ratio")))
    if not canvases or not most:
        return None
    return Tiling(tuple((height, width) for height, width in canvases), vision.number("image_size"), int(most[1]))


def _published_vila_tower(folder: Path, text: _Config) -> Tower | None:
    path = folder / "vision_tower" / "config.json"
    return _siglip_tower(_Config.read(path), text.number("hidden_size"), 4) if path.is_file() else None


def _number_bytes(*configs: _Config) -> int:
    """Of the dtype that the first config to name one names; 16 bits where none does."""
    for config in configs:
        for key in ("dtype", "torch_dtype"):
            if (size := BYTES.get(str(config.get(key)))) is not None:
                return size
    return 2
