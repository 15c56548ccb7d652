"""f_theta, a small convolutional network from first-layer attention to relevance (paper sections 3.3 and 4.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from model_wrappers.compressor.hub import CONFIG, WEIGHTS, locate
from model_wrappers.compressor_size import CHANNELS, KERNEL, multiply_adds
from model_wrappers.errors import UserError

InputScale = Literal["raw", "mean"]


class Compressor(nn.Module):
    """Five depthwise-separable 1-D convolutions (kernel 3, 'same' padding, ReLU after each), a pointwise one to a
    single channel, softmax over the tokens. 177,541 parameters. Any number of tokens.

    Args:
        mllm: name of the multimodal model it is trained for; a compressor serves no other.
        media: what its training prompts showed.
        input_scale: `raw` feeds A_v^0 as the paper writes it; `mean` divides it by its mean over the tokens, so that
            the input keeps its size when N_v grows.
    """

    def __init__(
        self,
        mllm: str = "",
        *,
        media: Literal["video", "image"] = "video",
        input_scale: InputScale = "raw",
        channels: tuple[int, ...] = CHANNELS,
        kernel: int = KERNEL,
    ) -> None:
        super().__init__()
        if input_scale not in ("raw", "mean"):
            raise UserError(f"compressor: input_scale={input_scale!r}, allowed are raw, mean")
        if kernel % 2 == 0:
            raise UserError(f"compressor: kernel={kernel}, but 'same' padding needs an odd one")
        self.mllm, self.media, self.input_scale = mllm, media, input_scale
        self.channels, self.kernel = tuple(channels), kernel
        widths = (1, *self.channels)
        self.depthwise = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width) for width in widths[:-1]
        )
        self.pointwise = nn.ModuleList(nn.Conv1d(widths[i], widths[i + 1], 1) for i in range(len(self.channels)))
        self.head = nn.Conv1d(widths[-1], 1, 1)

    def forward(self, attention: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probabilities [B, N_v] over the visual tokens.

        Args:
            attention: A_v^0, [B, N_v].
            mask: [B, N_v] bool, False where a shorter prompt is padded; those places get probability 0 and the others
                what they would get alone.
        """
        return self.logits(attention, mask).softmax(dim=-1)

    def log_probabilities(self, attention: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logarithms of `forward`, for the loss; 0 (not minus infinity) where padded."""
        logs = self.logits(attention, mask).log_softmax(dim=-1)
        return logs if mask is None else logs.masked_fill(~mask, 0.0)

    def logits(self, attention: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N_v] before the softmax; minus infinity where padded."""
        states = attention.to(self.head.weight.dtype)
        real = torch.ones_like(states) if mask is None else mask.to(states.dtype)
        states = states * real
        if self.input_scale == "mean":
            mean = states.sum(dim=-1, keepdim=True) / real.sum(dim=-1, keepdim=True)
            states = states / mean.clamp_min(torch.finfo(states.dtype).tiny)
        states = states[:, None]
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            # Biases make padding non-zero; a prompt must not see the padding of the batch it happens to be in.
            states = torch.relu(pointwise(depthwise(states))) * real[:, None]
        logits = self.head(states)[:, 0].to(self.head.weight.dtype)  # bfloat16 under autocast: too coarse for a softmax
        return logits if mask is None else logits.masked_fill(~mask, float("-inf"))

    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops(self, n_visual: int) -> int:
        """Eq. 6 for these channels and this kernel."""
        return multiply_adds(n_visual, self.channels, self.kernel)

    def config(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {
            "mllm": self.mllm,
            "media": self.media,
            "input_scale": self.input_scale,
            "channels": list(self.channels),
            "kernel": self.kernel,
        }

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes `model.safetensors` and `config.json`; returns the folder.

        Raises:
            UserError: if `mllm` is empty, since nobody could tell whose compressor it is.
        """
        if not self.mllm:
            raise UserError("a compressor is saved with the name of the MLLM it was trained for: Compressor(mllm=...)")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Not save_file: it tells a full disk as an error of its own kind, without the operating system's number.
        (folder / WEIGHTS).write_bytes(save({name: value.contiguous() for name, value in self.state_dict().items()}))
        (folder / CONFIG).write_text(json.dumps(self.config(), indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls, where: str | Path, mllm: str | None = None) -> Compressor:
        """Reads a compressor, in eval mode and float32.

        Args:
            where: folder that `save_pretrained` wrote, or the id of a hub repository with its two files.
            mllm: name of the model it is to serve; None does not ask.

        Raises:
            UserError: a missing or broken file, a hub id that the hub does not give, or a compressor of another MLLM.
        """
        folder = locate(where)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(f"compressor folder {folder} has no {name}")
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            owner = config.pop("mllm")
            net = cls(owner, **{**config, "channels": tuple(config["channels"])})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / CONFIG} is not a compressor's config: {error}") from error
        if mllm is not None and owner != mllm:
            raise UserError(f"the compressor in {folder} was trained for {owner}, not for {mllm}: train one for it")
        try:
            net.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder / WEIGHTS} does not hold this compressor's weights: {error}") from error
        return net.eval()
