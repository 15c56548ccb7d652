"""The state of a training on disk, as safetensors and JSON, so that a stopped training goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class Resume:
    """One training's state in one file, replaced as a whole at each save."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def step(self, **settings: int) -> int:
        """The step to go on from; 0 where there is no state, or one of a training with other settings."""
        if not self.path.is_file():
            return 0
        meta = self._meta()
        return int(meta["step"]) if meta["settings"] == settings else 0

    def save(
        self,
        step: int,
        modules: Mapping[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        streams: Mapping[str, torch.Generator],
        rng: np.random.Generator,
        **settings: int,
    ) -> None:
        """Writes weights, optimiser moments and every random stream, to be taken up before `step`."""
        tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in _own(module).items()}
        for number, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
        tensors |= {f"stream.{name}": generator.get_state() for name, generator in streams.items()}
        meta = {"step": step, "settings": settings, "rng": rng.bit_generator.state}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        save_file({name: value.clone() for name, value in tensors.items()}, draft, {"meta": json.dumps(meta)})
        os.replace(draft, self.path)

    def load(
        self,
        modules: Mapping[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        streams: Mapping[str, torch.Generator],
        rng: np.random.Generator,
    ) -> None:
        """Puts what `save` wrote back in place."""
        with safe_open(self.path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, name), strict=False)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, "optimiser").items():
            number, _, part = key.partition(".")
            state.setdefault(int(number), {})[part] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        for name, generator in streams.items():
            generator.set_state(tensors[f"stream.{name}"])
        rng.bit_generator.state = self._meta()["rng"]

    def clear(self) -> None:
        """Forgets the state: the training is done."""
        self.path.unlink(missing_ok=True)

    def _meta(self) -> dict[str, Any]:
        with safe_open(self.path, "pt") as file:
            return json.loads(file.metadata()["meta"])


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
