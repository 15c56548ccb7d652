"""LLaVA-OneVision as a VLMEvalKit model: the kit's prompts with their faults mended, and visual tokens that can be cut.

The text is that of the parent class (``vlmeval.vlm.llava.llava.LLaVA_OneVision_HF``, ms-vlmeval 0.0.20) through the
checkpoint's own chat template; images and frames go through the checkpoint's own processor. Unlike the parent it runs
on any device, dtype and attention kernel, takes apart ``decode``, ``encode`` and ``answer``, and differs in what the
parent gets wrong:

- A video prompt of the parent carries a literal ``<image>`` for which no image is given; ours has none.
- The parent takes a frame a second and only where that gives more than `nframe` frames does it spread `nframe` over
  the video, so a clip of 5 seconds is shown in 5 frames, or 6, however many were asked for. Ours shows `nframe` frames,
  fewer only where the clip has fewer.
- Where a benchmark asks for frames per second (`nframe` is None then), the parent crashes. Ours takes them.
- The parent samples where the checkpoint's generation config says so; ours is greedy unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import decord
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

from model_wrappers.errors import SampleError, UserError
from model_wrappers.families import extents
from model_wrappers.families.common import (
    Decoded,
    FamilyModel,
    check_media,
    generation_settings,
    load_model,
    open_folder,
    sample_errors,
    sample_id,
)
from model_wrappers.families.kit import load_vlmeval
from model_wrappers.methods.base import Method

load_vlmeval()
from vlmeval.vlm.llava.llava import LLaVA_OneVision_HF  # noqa: E402  (only after the kit's import was confined)


class Clip(NamedTuple):
    """The frames taken from one video."""

    frames: np.ndarray[Any, Any]
    """[T, H, W, 3] uint8."""
    times: list[float]
    """[T] seconds from the start."""
    seconds: float
    """Length of the whole video."""

    def only(self, chosen: Sequence[int]) -> Clip:
        """What is told of these of its frames."""
        return self._replace(times=[self.times[place] for place in chosen])


class LLaVAOneVision(FamilyModel, LLaVA_OneVision_HF):
    """A LLaVA-OneVision checkpoint under one method and keep; ``answer`` takes any other method and keep as well.

    Args:
        model_path: checkpoint folder, or hub id, of the Hugging Face layout (``llava-hf/llava-onevision-...-ov-hf``).
        method: name of a method, or a method; what ``generate`` uses.
        keep: share of visual tokens that ``generate`` keeps, in (0, 1].
        revision: branch or commit, where model_path is a hub id.
        device: ``cuda``, ``cpu``, ...; None takes CUDA where there is one.
        dtype: of the weights; ``auto`` is the checkpoint's own, but float32 in place of float16 on a CPU.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``.
        nframe: frames a video, evenly spread from its first to its last; the parent's 8 if fps is not given either.
        fps: frames a second of video; used where nframe is None. VLMEvalKit's runner sets both attributes to what the
            dataset says.
        max_pixels: largest canvas of an image in pixels: larger ones of the checkpoint are left out, in the processor
            and in the model. None leaves all of them.
        max_new_tokens: as in the parent.
        do_sample: False is greedy; True takes the checkpoint's own sampling settings.
        repetition_penalty: 1.0 is none, whatever the checkpoint's generation config says.

    Raises:
        UserError: a file of the checkpoint is missing or broken, or a setting cannot be.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        method: str | Method = "vanilla",
        keep: float = 1.0,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        attn_implementation: str = "sdpa",
        nframe: int | None = None,
        fps: float | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int = 2048,
        do_sample: bool = False,
        repetition_penalty: float = 1.0,
    ) -> None:
        super(LLaVA_OneVision_HF, self).__init__()  # not the parent's own: it loads in float16 on CUDA only
        self._set_method(method, keep)
        if nframe is not None and nframe < 1:
            raise UserError(f"nframe={nframe}: a video is shown in 1 frame or more.")
        if fps is not None and fps <= 0:
            raise UserError(f"fps={fps}: frames a second are a number above 0.")
        # VLMEvalKit's runner replaces an attribute by the dataset's only where it is a number: so fps is one at first,
        # and nframe decides where both are. Where it takes away the only one that was, what was given here holds.
        self.nframe: int | None = 8 if nframe is None and fps is None else nframe
        self.fps: float | None = 1 if fps is None else fps
        self._given = (self.nframe, self.fps)
        self.max_pixels, self.max_new_tokens = max_pixels, max_new_tokens
        self.generate_kwargs = generation_settings(max_new_tokens, do_sample, repetition_penalty)

        folder = open_folder(model_path, revision, "llava_onevision")
        self.model_path = str(folder)
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.processor.tokenizer("")  # settles its padding, which threads that decode at once must not change
        self._set_model(load_model(LlavaOnevisionForConditionalGeneration, folder, device, dtype, attn_implementation))
        if max_pixels is not None:
            for owner in (self.processor.image_processor, self.model.config):
                owner.image_grid_pinpoints = _within(max_pixels, owner.image_grid_pinpoints)
        if self.model.generation_config.pad_token_id is None:  # else each generate() says that it takes another
            self.model.generation_config.pad_token_id = self.processor.tokenizer.pad_token_id

    def decode(self, message: list[dict[str, Any]], dataset: str | None = None) -> Decoded:
        """Reads the media and runs the processor, on the CPU; may be called from any thread.

        Images stand where they are in the message. Videos stand before everything else, followed by the parent's
        sentences on their length and frames; several are told one after the other.

        Args:
            message: VLMEvalKit's message, a list of ``{"type": "text" | "image" | "video", "value": text or path}``.
            dataset: not looked at: what the message holds says whether it shows a video.

        Raises:
            SampleError: a file is missing, empty, or cannot be decoded; a text holds a placeholder; videos of one
                message have different numbers of frames.
        """
        for item in message:
            check_media(item)
            self._check_text(item)
        images = [self._read_image(item["value"]) for item in message if item["type"] == "image"]
        clips = [self._read_video(item["value"]) for item in message if item["type"] == "video"]
        if len(lengths := {len(clip.frames) for clip in clips}) > 1:
            raise SampleError(
                f"The videos of one question have {' and '.join(map(str, sorted(lengths)))} frames: LLaVA-OneVision "
                "takes several only with equally many."
            )
        inputs = self.processor(
            text=self._prompt(message, clips),
            images=images or None,
            videos=[clip.frames for clip in clips] or None,
            return_tensors="pt",
        )
        told = [clip._replace(frames=np.empty(0)) for clip in clips]  # the pixels are in `inputs`
        return Decoded(
            inputs,
            sample_id(message),
            self._extents(inputs, len(images)),
            media="video" if clips else "image",
            told=(message, told) if clips else None,
        )

    def retell(self, message: list[dict[str, Any]], clips: list[Clip], chosen: list[tuple[int, ...]]) -> Sequence[int]:
        """Token ids of the prompt that tells of these frames of its videos, one placeholder a video."""
        left = [clip.only(frames) for clip, frames in zip(clips, chosen, strict=True)]
        return self.processor.tokenizer(self._prompt(message, left)).input_ids

    def _prompt(self, message: list[dict[str, Any]], clips: list[Clip]) -> str:
        content = "".join(_time_instruction(clip) for clip in clips)
        for item in message:
            if item["type"] == "text":
                content += item["value"]
            elif item["type"] == "image":
                content += self.DEFAULT_IMAGE_TOKEN + "\n"
        parts = [{"type": "text", "text": content}, *({"type": "video"} for _ in clips)]
        return self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)

    def _check_text(self, item: dict[str, Any]) -> None:
        """Raises SampleError where a text would be taken for a picture."""
        for token in (self.processor.image_token, self.processor.video_token):
            if item["type"] == "text" and token in item["value"]:
                raise SampleError(f"The question holds {token!r}, which LLaVA-OneVision takes for a picture.")

    def _read_image(self, path: str) -> Image.Image:
        with sample_errors("image", path):
            return Image.open(path).convert("RGB")

    def _read_video(self, path: str) -> Clip:
        with sample_errors("video", path):
            reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            rate = reader.get_avg_fps()
            if not rate > 0:
                raise ValueError("it says that it has 0 frames a second")
            indices = self._frame_indices(len(reader), rate)
            return Clip(reader.get_batch(indices).asnumpy(), [index / rate for index in indices], len(reader) / rate)

    def _frame_indices(self, frames: int, rate: float) -> list[int]:
        """Which frames of a video of `frames` at `rate` a second are shown."""
        nframe, fps = self._given if self.nframe is None and self.fps is None else (self.nframe, self.fps)
        if nframe is not None:
            return np.linspace(0, frames - 1, min(nframe, frames), dtype=int).tolist()
        assert fps is not None
        step = max(1.0, rate / fps)
        return [min(frames - 1, round(index * step)) for index in range(int(np.ceil(frames / step)))]

    def _extents(self, inputs: Any, n_images: int) -> Tensor:
        """`VisualPrompt.extents` from what the processor returned."""
        config = self.model.config
        tile, patch = config.vision_config.image_size, config.vision_config.patch_size
        side = tile // patch
        images = [
            extents.anyres(
                tuple(size.tolist()),
                (index / n_images, (index + 1) / n_images),
                pinpoints=config.image_grid_pinpoints,
                tile=tile,
                side=side,
                most=int(config.vision_aspect_ratio.removeprefix("anyres_max_")),
            )
            for index, size in enumerate(inputs.get("image_sizes", ()))
        ]
        pooled = -(-side // 2)
        videos = [
            torch.cat((extents.video(frames.shape[0], pooled, pooled), extents.NOWHERE))
            for frames in inputs.get("pixel_values_videos", ())
        ]
        return extents.in_places(inputs["input_ids"][0], {config.image_token_id: images, config.video_token_id: videos})


def _time_instruction(clip: Clip) -> str:
    """The parent's sentences, word for word."""
    times = ", ".join(f"{time:.2f}s" for time in clip.times)
    return (
        f"The video lasts for {clip.seconds:.2f} seconds, and {len(clip.times)} frames are uniformly sampled from it. "
        f"These frames are located at {times}. Please answer the following questions related to this video.\n"
    )


def _within(max_pixels: int, pinpoints: list[list[int]]) -> list[list[int]]:
    """The canvases of at most `max_pixels`.

    Raises:
        UserError: there is none.
    """
    left = [list(canvas) for canvas in pinpoints if canvas[0] * canvas[1] <= max_pixels]
    if not left:
        smallest = min(canvas[0] * canvas[1] for canvas in pinpoints)
        raise UserError(
            f"max_pixels={max_pixels} is below every canvas of the checkpoint: the smallest has {smallest}."
        )
    return left
