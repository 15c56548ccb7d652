"""The state of a training on disk, as safetensors with JSON inside, so that a stopped training goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from harness.disk import write_atomically
from model_wrappers.errors import UserError

NET, OPTIMISER, BEST = "net.", "optimiser.", "best."


class State:
    """One training's state in one file, replaced as a whole after each epoch.

    Args:
        path: the file.
        key: what the training is (`train.key`): a state of another one is not taken up.
        anew: whether a state of another training is passed over instead of refused.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], *, anew: bool = False) -> None:
        self.path, self.key, self.anew = path, json.loads(json.dumps(key)), anew

    def save(
        self,
        net: nn.Module,
        optimiser: torch.optim.Optimizer,
        curves: Sequence[Sequence[float]],
        best: Mapping[str, Tensor],
    ) -> None:
        """Writes weights, Adam's moments, the losses so far, and the best weights where they are kept.

        Raises:
            StoreError: the disk refuses.
        """
        tensors = {NET + name: value for name, value in net.state_dict().items()}
        tensors |= {BEST + name: value for name, value in best.items()}
        for number, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"{OPTIMISER}{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        meta = {"key": json.dumps(self.key), "curves": json.dumps([list(epoch) for epoch in curves])}
        # Not save_file: it tells a full disk as an error of its own kind, without the operating system's number.
        write_atomically(self.path, save({name: value.detach().cpu().clone() for name, value in tensors.items()}, meta))

    def restore(
        self, net: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
        """Puts what `save` wrote back in place. Returns the losses and the best weights; both empty without a state.

        Raises:
            UserError: a damaged file, or the state of another training, naming what differs.
        """
        if not self.path.is_file():
            return [], {}
        try:
            with safe_open(self.path, "pt") as file:
                meta = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            key, curves = json.loads(meta["key"]), [tuple(epoch) for epoch in json.loads(meta["curves"])]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is no state of a training ({error}): remove it to begin anew") from error
        if key != self.key:
            if self.anew:
                return [], {}
            differs = [name for name in self.key if key.get(name) != self.key[name]]
            raise UserError(
                f"{self.path} is the state of another training ({', '.join(differs)} differ): remove it, or give --out "
                "another folder"
            )
        net.load_state_dict(_under(tensors, NET))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, OPTIMISER).items():
            number, _, part = name.partition(".")
            moments.setdefault(int(number), {})[part] = value
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        return curves, _under(tensors, BEST)

    def clear(self) -> None:
        """Forgets the state: the training is done."""
        self.path.unlink(missing_ok=True)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
