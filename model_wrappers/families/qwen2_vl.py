"""Qwen2-VL as a VLMEvalKit model: the kit's prompts and preprocessing, with visual tokens that can be cut.

Everything up to the processor's output is the parent class's doing (``vlmeval.vlm.Qwen2VLChat``, ms-vlmeval 0.0.20):
its prompts, its message content, ``qwen_vl_utils`` and the processor, called with the same arguments. Unlike the parent
it needs no ``nvidia-smi``, runs on any device with any attention kernel, and takes apart what the parent does in one:
``decode`` (CPU, any thread), ``encode`` (vision encoder), ``answer`` (cut and generate); so a sample is read once for
many methods.
"""

from __future__ import annotations

import contextlib
import io
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from qwen_vl_utils import process_vision_info, vision_process
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

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
from vlmeval.vlm.qwen2_vl.model import Qwen2VLChat  # noqa: E402  (only after the kit's import was confined)


def _without_print(function: types.FunctionType) -> Callable[..., Any]:
    """The same function, with a ``print`` that says nothing; its module and other threads print as before."""
    quiet = {**function.__globals__, "print": lambda *args, **kwargs: None}
    return types.FunctionType(function.__code__, quiet, function.__name__, function.__defaults__, function.__closure__)


class Qwen2VL(FamilyModel, Qwen2VLChat):
    """A Qwen2-VL checkpoint under one method and keep; ``answer`` takes any other method and keep as well.

    Args:
        model_path: checkpoint folder, or hub id.
        method: name of a method, or a method; what ``generate`` uses.
        keep: share of visual tokens that ``generate`` keeps, in (0, 1].
        revision: branch or commit, where model_path is a hub id.
        device: ``cuda``, ``cpu``, ...; None takes CUDA where there is one.
        dtype: of the weights; ``auto`` is the checkpoint's own, but float32 in place of float16 on a CPU.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``.
        nframe: frames a video, cut to an even number not above the frames it has; fps then is None unless given.
        fps: frames a second of video; wins over nframe, as in the parent. Neither given: the parent's 2 a second.
            VLMEvalKit's runner sets both attributes to what the dataset says.
        do_sample: False is greedy; then top_p, top_k and temperature are not used.
        repetition_penalty: as in the parent 1.0, whatever the checkpoint's generation config says.
        min_pixels, max_pixels, total_pixels, max_new_tokens: as in the parent.
        image_pixels: pixels that an image is brought to. None: min_pixels and max_pixels hold for images as for frames,
            as in the parent.
        use_custom_prompt, system_prompt, post_process, verbose: as in the parent.
        use_vllm, use_lmdeploy: passed by VLMEvalKit; must be false, since only transformers models can be cut.

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
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        image_pixels: int | None = None,
        total_pixels: int | None = None,
        max_new_tokens: int = 2048,
        top_p: float = 0.001,
        top_k: int = 1,
        temperature: float = 0.01,
        repetition_penalty: float = 1.0,
        do_sample: bool = False,
        use_custom_prompt: bool = True,
        system_prompt: str | None = None,
        post_process: bool = False,
        verbose: bool = False,
        nframe: int | None = None,
        fps: float | None = None,
        use_vllm: bool = False,
        use_lmdeploy: bool = False,
    ) -> None:
        # Not the parent's own __init__: it asserts a GPU and loads with FlashAttention on CUDA only.
        super(Qwen2VLChat, self).__init__(use_custom_prompt=use_custom_prompt)
        if use_vllm or use_lmdeploy:
            raise UserError("Visual tokens are cut in transformers models only: leave use_vllm and use_lmdeploy off.")
        if min_pixels is not None and max_pixels is not None and min_pixels > max_pixels:
            raise UserError(f"min_pixels={min_pixels} is above max_pixels={max_pixels}.")
        self._set_method(method, keep)
        self.min_pixels, self.max_pixels, self.total_pixels = min_pixels, max_pixels, total_pixels
        self.image_pixels = image_pixels
        self.max_new_tokens = max_new_tokens
        self.generate_kwargs = generation_settings(
            max_new_tokens, do_sample, repetition_penalty, top_p=top_p, top_k=top_k, temperature=temperature
        )
        self.system_prompt, self.post_process, self.verbose = system_prompt, post_process, verbose
        self.nframe = 128 if nframe is None else nframe
        self.fps = 2 if nframe is None and fps is None else fps
        self.FRAME_FACTOR = 2
        self.use_audio_in_video = self.use_vllm = self.use_lmdeploy = False

        folder = open_folder(model_path, revision, "qwen2_vl")
        self.model_path = str(folder)
        self.processor = Qwen2VLProcessor.from_pretrained(folder)
        frames = self.processor.video_processor
        if getattr(frames, "cap_pixels_per_frame", None) is None:  # None means False, with a warning
            frames.cap_pixels_per_frame = False
        self._set_model(load_model(Qwen2VLForConditionalGeneration, folder, device, dtype, attn_implementation))
        with contextlib.redirect_stderr(io.StringIO()):  # qwen_vl_utils says once which reader it uses
            self._video_reader = vision_process.get_video_reader_backend()

    _prepare_content = _without_print(Qwen2VLChat._prepare_content)

    def decode(self, message: list[dict[str, Any]], dataset: str | None = None) -> Decoded:
        """Reads the media and runs the processor, on the CPU; may be called from any thread.

        Args:
            message: VLMEvalKit's message, a list of ``{"type": "text" | "image" | "video", "value": text or path}``.
            dataset: its name; the parent treats OCRBench apart.

        Raises:
            SampleError: a file is missing, empty, or cannot be decoded; names it.
        """
        for item in message:
            check_media(item)
        content = self._prepare_content(message, dataset=dataset)
        for item in content:
            if item["type"] == "image" and self.image_pixels is not None:
                item["min_pixels"] = item["max_pixels"] = self.image_pixels
        messages = [{"role": "user", "content": content}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        if self.verbose:
            print(f"\033[31m{messages}\033[0m")
        images: list[Any] = []
        videos: list[Any] = []
        for source, item in zip(message, content, strict=True):
            if item["type"] == "image":
                images.append(self._read_image(source["value"], item))
            elif item["type"] == "video":
                videos.append(self._read_video(source["value"], item))
        text = self.processor.apply_chat_template([messages], tokenize=False, add_generation_prompt=True)
        inputs = self.processor(
            text=text, images=images or None, videos=videos or None, padding=True, return_tensors="pt"
        )
        return Decoded(inputs, sample_id(message), self._extents(inputs))

    def finish(self, response: str) -> str:
        """As the parent does: post-processed and printed, where that was asked for."""
        if self.post_process:
            response = last_boxed(response)
        if self.verbose:
            print(f"\033[32m{response}\033[0m")
        return response

    def _extents(self, inputs: Any) -> torch.Tensor:
        """`VisualPrompt.extents` from the grids that the processor returned, in patches: 2 x 2 of them are a token."""
        merge = self.processor.image_processor.merge_size
        images = inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else []
        videos = inputs["video_grid_thw"].tolist() if "video_grid_thw" in inputs else []
        count = len(images)
        return extents.in_places(
            inputs["input_ids"][0],
            {
                self.processor.image_token_id: [
                    extents.grid((index / count, (index + 1) / count), rows // merge, columns // merge)
                    for index, (_, rows, columns) in enumerate(images)
                ],
                self.processor.video_token_id: [
                    extents.video(times, rows // merge, columns // merge) for times, rows, columns in videos
                ],
            },
        )

    def _read_image(self, path: str, item: dict[str, Any]) -> Any:
        with sample_errors("image", path):
            images, _ = process_vision_info([{"role": "user", "content": [item]}])
        return images[0]

    def _read_video(self, path: str, item: dict[str, Any]) -> torch.Tensor:
        """[T, 3, H, W] float frames, as ``process_vision_info`` gives them to the parent."""
        with sample_errors("video", path):
            _, videos = process_vision_info([{"role": "user", "content": [item]}], return_video_metadata=True)
            frames, metadata = videos[0]
        # Where its reader fails, qwen_vl_utils goes on with another, whose frames of a broken file are anyone's guess.
        used = metadata.get("video_backend", self._video_reader)
        if used != self._video_reader:
            raise SampleError(f"The video {path} cannot be decoded by {self._video_reader}.")
        return frames


def last_boxed(response: str) -> str:
    r"""What stands in the last ``\boxed{...}``, or before the first brace that closes nothing: the parent's rule."""
    text = response.split("\\boxed{")[-1] or response
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:place]
    return text
