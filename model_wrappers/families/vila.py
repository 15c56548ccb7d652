"""VILA1.5 as a VLMEvalKit model: the kit's prompts, on today's transformers, with visual tokens that can be cut.

The kit's class (``vlmeval.vlm.VILA``, ms-vlmeval 0.0.20) needs the package ``llava`` and transformers 4.36; nothing of
it but its prompts' layout can be used: the message's texts as they are, ``<image>`` and a newline for each image, in
their order. It takes no videos: VLMEvalKit gives it the frames as images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig

from model_wrappers.errors import SampleError
from model_wrappers.families.common import (
    Decoded,
    FamilyModel,
    check_media,
    generation_settings,
    load_model,
    no_progress_bar,
    open_folder,
    pick_device,
    pick_dtype,
    sample_errors,
    sample_id,
)
from model_wrappers.families.kit import load_vlmeval
from model_wrappers.methods.base import Method
from model_wrappers.vila.hub import hub_config, load_hub_layout
from model_wrappers.vila.layout import is_hub_layout
from model_wrappers.vila.model import VilaForConditionalGeneration
from model_wrappers.vila.processor import VilaProcessor
from model_wrappers.vila.projector import token_places
from model_wrappers.vila.templates import IMAGE

load_vlmeval()
from vlmeval.dataset import DATASET_MODALITY  # noqa: E402  (only after the kit's import was confined)
from vlmeval.vlm.base import BaseModel  # noqa: E402
from vlmeval.vlm.vila import VILA as KitVILA  # noqa: E402


class VILA(FamilyModel, KitVILA):
    """A VILA1.5 checkpoint under one method and keep; ``answer`` takes any other method and keep as well.

    Args:
        model_path: checkpoint folder, as published or as `save_pretrained` writes it, or hub id.
        method: name of a method, or a method; what ``generate`` uses.
        keep: share of visual tokens that ``generate`` keeps, in (0, 1].
        revision: branch or commit, where model_path is a hub id.
        device: ``cuda``, ``cpu``, ...; None takes CUDA where there is one.
        dtype: of the weights; ``auto`` is the checkpoint's own, but off the CPU float16 in place of bfloat16, since
            that is what VILA's own code runs, and on a CPU float32 in place of float16.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``.
        nframe, fps: frames that a video data set should give; kept for VLMEvalKit's runner, which sets them. The frames
            come as images.
        max_new_tokens: longest answer; the parent's is 2048.
        do_sample: False is greedy, as the parent; then top_p and temperature are not used.
        repetition_penalty: 1.0 is none, as the parent.

    Raises:
        UserError: a file of the checkpoint is missing or broken, or a setting cannot be.
    """

    VIDEO_LLM = False

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
        nframe: int | None = 8,
        fps: float | None = None,
        max_new_tokens: int = 2048,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
    ) -> None:
        BaseModel.__init__(self)  # not the parent's own: it needs `llava` and a GPU
        self._set_method(method, keep)
        self.nframe, self.fps = nframe, fps
        self.max_new_tokens = max_new_tokens
        self.generate_kwargs = generation_settings(
            max_new_tokens, do_sample, repetition_penalty, temperature=temperature, top_p=top_p
        )
        folder = open_folder(model_path, revision, "llava_llama", "retain_vila")
        self.model_path = str(folder)
        self.processor: Any = VilaProcessor.from_pretrained(folder)
        self._set_model(_load(folder, device, dtype, attn_implementation))
        self.model.generation_config = self.processor.generation_config()
        self._places = token_places(self.model.config)

    def decode(self, message: list[dict[str, Any]], dataset: str | None = None) -> Decoded:
        """Reads the images and runs the processor, on the CPU; may be called from any thread.

        Args:
            message: VLMEvalKit's message, a list of ``{"type": "text" | "image", "value": text or path}``.
            dataset: its name in VLMEvalKit; that of a video data set says that the images are a video's frames.

        Raises:
            SampleError: a file is missing, empty, or cannot be decoded; the prompt is too long; or a text has
                ``<image>`` in it, or the message a video, with which the parent cannot do anything right.
        """
        images = []
        for item in message:
            check_media(item)
            if item["type"] == "text":
                if IMAGE in item["value"]:
                    raise SampleError(f"The text {item['value'][:60]!r} has {IMAGE} in it, which to VILA is an image.")
            elif item["type"] == "image":
                with sample_errors("image", item["value"]), Image.open(item["value"]) as image:
                    images.append(image.convert("RGB"))
            else:
                raise SampleError(f"VILA takes a video's frames as images, not the {item['type']} {item['value']}.")
        inputs = self.processor(images=images, text=self._text(message, range(len(images))))
        return Decoded(
            inputs,
            sample_id(message),
            self._extents(len(images)),
            _media(dataset),
            told=(message,),
        )

    def retell(self, message: list[dict[str, Any]], chosen: list[tuple[int, ...]]) -> Sequence[int]:
        """Token ids of the prompt with these of its frames, one placeholder each."""
        return self.processor.tokenize(self._text(message, chosen[0]), placeholders=1)

    def _text(self, message: list[dict[str, Any]], shown: Collection[int]) -> str:
        """The prompt's text with these of its images."""
        content, place = "", -1
        for item in message:
            if item["type"] == "text":
                content += item["value"]
            else:
                place += 1
                content += f"{IMAGE}\n" if place in shown else ""
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def finish(self, response: str) -> str:
        """Without white space at its ends, as the parent gives it."""
        return response.strip()

    def _extents(self, n_images: int) -> Tensor:
        """[N_v, 6]: the images are equal stretches of time, one after the other."""
        start = torch.arange(n_images).repeat_interleave(len(self._places))[:, None]
        times = torch.cat((start, start + 1), dim=1) / max(n_images, 1)
        return torch.cat((times, self._places.repeat(n_images, 1)), dim=1)


def _media(dataset: str | None) -> Literal["image", "video"]:
    return "video" if dataset is not None and DATASET_MODALITY(dataset) == "VIDEO" else "image"


def _load(folder: Path, device: str | torch.device | None, dtype: str | torch.dtype, attention: str) -> Any:
    target = pick_device(device)
    published = is_hub_layout(folder)
    stored: Any = hub_config(folder).dtype if published else AutoConfig.from_pretrained(folder).dtype
    if dtype == "auto" and target.type != "cpu" and stored == torch.bfloat16:
        dtype = torch.float16
    if not published:
        return load_model(VilaForConditionalGeneration, folder, target, dtype, attention)
    with no_progress_bar():
        model: Any = load_hub_layout(folder, pick_dtype(dtype, stored, target), attention)
    return model.to(target).eval()
