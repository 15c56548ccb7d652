"""One prompt's input taken apart: token ids and pictures. An InputTransform makes the pictures cheaper, here the rest
of the input follows: fewer placeholders, and what the vision encoder is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from model_wrappers.anatomy import visual_token_ids
from model_wrappers.errors import UserError
from model_wrappers.methods.base import InputTransform
from model_wrappers.pictures import LlavaOneVisionPicture, Picture, Qwen2VLPicture, VilaPicture
from model_wrappers.selection import budget

Retell = Callable[[list[tuple[int, ...]]], Sequence[int]]
"""From the frames left of each video to the token ids of the prompt that tells of them, one placeholder a run."""


@dataclass(frozen=True, eq=False)
class Input:
    """What one prompt was encoded from.

    ids: [L] without padding. images, videos: in the order of the prompt. retell: given where the text speaks of the
    frames, so that fewer of them need another text; None leaves the text as it is.
    """

    model: Any
    ids: Tensor
    images: tuple[Picture, ...]
    videos: tuple[Picture, ...]
    retell: Retell | None = None

    @property
    def tokens(self) -> int:
        """N_v of the full input."""
        return sum(picture.tokens for picture in (*self.images, *self.videos))

    @property
    def media(self) -> Literal["image", "video"]:
        """`VisualPrompt.media`."""
        return "video" if self.videos else "image"

    def encoder_inputs(self) -> dict[str, Tensor]:
        """What `encode` takes: a batch of one."""
        made = {"input_ids": self.ids[None], "attention_mask": torch.ones_like(self.ids)[None]}
        for pictures in (self.images, self.videos):
            if pictures:
                made |= pictures[0].inputs(pictures)
        return made

    def cheaper(self, method: InputTransform, keep: float) -> Input:
        """The version nearest to the budget of `keep`, of two as near the cheaper one, of several with as many tokens
        the largest.

        Tokens that no version is without (the newline that ends a video of LLaVA-OneVision) are not in the budget.

        Raises:
            UserError: the method is not defined for what the prompt shows.
        """
        if self.media not in method.media:
            raise UserError(f"{method.name} is not defined for a prompt that shows no {' or '.join(method.media)}")
        pictures = [*self.images, *self.videos]
        fixed = sum(picture.fixed for picture in pictures)
        allowed = budget(keep, self.tokens - fixed) + fixed
        versions = [list(version) for version in method.versions(pictures)]
        counts = [sum(picture.tokens for picture in version) for version in versions]
        best = min(range(len(versions)), key=lambda at: (abs(counts[at] - allowed), counts[at], -at))
        chosen = versions[best]
        images, videos = tuple(chosen[: len(self.images)]), tuple(chosen[len(self.images) :])
        return Input(self.model, self._ids(images, videos), images, videos, self.retell)

    def _ids(self, images: tuple[Picture, ...], videos: tuple[Picture, ...]) -> Tensor:
        ids: Sequence[int] = _collapsed(self.ids.tolist(), self._runs(self.images, self.videos))
        if self.retell is not None and any(video.chosen is not None for video in videos):
            ids = self.retell([tuple(range(len(v.frames))) if v.chosen is None else v.chosen for v in videos])
        return torch.tensor(_expanded(ids, self._runs(images, videos)), device=self.ids.device)

    def _runs(self, images: Sequence[Picture], videos: Sequence[Picture]) -> dict[int, list[int]]:
        """By placeholder, the lengths of its runs in their order."""
        runs: dict[int, list[int]] = {}
        tokens = visual_token_ids(self.model)
        for token, pictures in ((tokens[0], images), (tokens[-1], videos)):
            runs.setdefault(token, []).extend(run for picture in pictures for run in picture.runs)
        return runs


def split(model: Any, inputs: Mapping[str, Any], media: Literal["image", "video"] | None = None) -> list[Input]:
    """The prompts of a batch.

    Args:
        model: any that `model_wrappers.compress` takes.
        inputs: what its processor returned: input_ids [B, L], attention_mask, pixels, grids and sizes.
        media: "video" where a prompt's images are the frames of a video, which no placeholder of VILA's tells.

    Raises:
        UserError: placeholders and pictures do not go together.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    rows = [row if mask is None else row[mask[place].bool()] for place, row in enumerate(ids)]
    family = model.config.model_type
    if family not in _FAMILIES:
        raise UserError(f"no input of a {family} can be made cheaper, only of {', '.join(sorted(_FAMILIES))}")
    return _FAMILIES[family](model, inputs, rows, media)


def _qwen2_vl(model: Any, inputs: Mapping[str, Any], rows: list[Tensor], media: str | None) -> list[Input]:
    pictures: dict[str, list[Picture]] = {}
    for kind, pixels, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        found = inputs[grids].tolist() if inputs.get(pixels) is not None else []
        parts = inputs[pixels].split([t * h * w for t, h, w in found]) if found else ()
        pictures[kind] = [
            Qwen2VLPicture.of(model, kind, patches, grid)  # type: ignore[arg-type]
            for patches, grid in zip(parts, found, strict=True)
        ]
    return _dealt(model, rows, pictures["image"], pictures["video"])


def _llava_onevision(model: Any, inputs: Mapping[str, Any], rows: list[Tensor], media: str | None) -> list[Input]:
    from transformers.image_processing_utils import select_best_resolution

    config = model.config
    tile = config.vision_config.image_size
    common: dict[str, Any] = {
        "side": tile // config.vision_config.patch_size,
        "most": int(config.vision_aspect_ratio.removeprefix("anyres_max_")),
    }
    images: list[Picture] = []
    if inputs.get("pixel_values") is not None:
        sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
        together = inputs.get("batch_num_images")
        groups = [1] * len(sizes) if together is None else torch.as_tensor(together).tolist()
        alone = [count == 1 for count in groups for _ in range(count)]
        for size, tiles, tiled in zip(sizes, inputs["pixel_values"], alone, strict=True):
            height, width = select_best_resolution(size, config.image_grid_pinpoints)
            layout = (height // tile, width // tile) if tiled else None
            count = 1 if layout is None else 1 + layout[0] * layout[1]
            images.append(LlavaOneVisionPicture("image", tiles[:count], original=size, layout=layout, **common))
    given = inputs.get("pixel_values_videos")
    videos = [LlavaOneVisionPicture("video", frames, **common) for frames in (() if given is None else given)]
    return _dealt(model, rows, images, videos)


def _vila(model: Any, inputs: Mapping[str, Any], rows: list[Tensor], media: str | None) -> list[Input]:
    pixels, side = inputs.get("pixel_values"), model.config.n_patches
    if pixels is None:
        return _dealt(model, rows, [], [])
    if media == "video" and len(rows) == 1:
        return [Input(model, rows[0], (), (VilaPicture("video", pixels, side=side),))]
    return _dealt(model, rows, [VilaPicture("image", image[None], side=side) for image in pixels], [])


_FAMILIES = {"qwen2_vl": _qwen2_vl, "llava_onevision": _llava_onevision, "retain_vila": _vila}
"""``model_type`` of the model's config -> how a batch's pictures are read."""


def _dealt(model: Any, rows: list[Tensor], images: Sequence[Picture], videos: Sequence[Picture]) -> list[Input]:
    """Each row with the pictures that its placeholders ask for, in their order."""
    tokens = visual_token_ids(model)
    found = []
    waiting = dict(zip(tokens, (list(images), list(videos)), strict=False))  # VILA has no placeholder for a video
    for row in rows:
        taken: dict[int, list[Picture]] = {}
        for token, pictures in waiting.items():
            wanted, taken[token] = int((row == token).sum()), []
            while wanted > 0 and pictures:
                taken[token].append(pictures.pop(0))
                wanted -= taken[token][-1].tokens
            if wanted:
                raise UserError("placeholders in the prompts and pictures in the inputs do not go together")
        shown = [tuple(taken[token]) for token in tokens]
        found.append(Input(model, row, shown[0], shown[1] if len(shown) > 1 else ()))
    return found


def _collapsed(ids: list[int], runs: Mapping[int, Sequence[int]]) -> list[int]:
    """Each run of placeholders as one."""
    left = {token: iter(lengths) for token, lengths in runs.items()}
    found, place = [], 0
    while place < len(ids):
        found.append(ids[place])
        place += next(left[ids[place]]) if ids[place] in left else 1
    return found


def _expanded(ids: Sequence[int], runs: Mapping[int, Sequence[int]]) -> list[int]:
    """Each placeholder as its run."""
    left = {token: iter(lengths) for token, lengths in runs.items()}
    found: list[int] = []
    for token in ids:
        found += [token] * (next(left[token]) if token in left else 1)
    return found
