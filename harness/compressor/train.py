"""Training a compressor: paper section 4.1, with samples of any length.

Adam at its defaults, batches of 128, eq. 3 as the loss. A batch goes through the network in pieces of like length whose
gradients add up to the batch's: what fits into memory changes nothing but the order of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from harness.compressor import heap
from harness.compressor.batches import Samples, pairs_digest
from harness.compressor.dataset import Pair
from harness.compressor.state import State
from model_wrappers.compressor import Compressor, kl_loss
from model_wrappers.compressor.net import CHANNELS, KERNEL, InputScale
from model_wrappers.errors import UserError

BATCH = 128

Precision = Literal["float32", "bf16"]
Media = Literal["video", "image"]


@dataclass(frozen=True)
class Settings:
    """All that a compressor depends on besides its samples.

    Raises:
        UserError: a value out of its range.
    """

    epochs: int = 100
    seed: int = 0
    input_scale: InputScale = "raw"
    """`raw` is the paper's; see `Compressor`."""
    precision: Precision = "float32"
    """`bf16`: the network runs under autocast; weights, softmax, loss and optimiser stay in float32."""
    patience: int | None = None
    """Stop after so many epochs without a lower held-out loss, and take the weights of the lowest; None: the last
    weights after all epochs."""
    channels: tuple[int, ...] = CHANNELS
    kernel: int = KERNEL
    zeroed: float = 0.5
    """Share of the label that is set to zero."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"epochs={self.epochs}, allowed is 1 or more")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"patience={self.patience}, allowed is 1 or more (without it, training never stops early)")
        if self.input_scale not in ("raw", "mean"):
            raise UserError(f"input_scale={self.input_scale!r}, allowed are raw, mean")
        if self.precision not in ("float32", "bf16"):
            raise UserError(f"precision={self.precision!r}, allowed are float32, bf16")


class Epoch(NamedTuple):
    """Mean loss (KL, in nats) of one pass over the training samples, and of the held-out ones after it."""

    train_kl: float
    held_out_kl: float


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained compressor (eval mode, CPU), the losses of its epochs, and the epoch its weights are from (from 1)."""

    net: Compressor
    curves: list[Epoch]
    epoch: int


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def key(
    training: Sequence[Pair], held_out: Sequence[Pair], settings: Settings, mllm: str, media: Media
) -> dict[str, Any]:
    """What a training is: two with an equal key give the same weights on the same machine. JSON."""
    samples = {"training": pairs_digest(training), "held_out": pairs_digest(held_out)}
    return {"mllm": mllm, "media": media, "samples": samples, **asdict(settings), "channels": list(settings.channels)}


def fit(
    training: Sequence[Pair],
    held_out: Sequence[Pair],
    settings: Settings,
    *,
    mllm: str,
    media: Media,
    state: State | None = None,
) -> Fitted:
    """A compressor trained on `training`.

    Args:
        training, held_out: samples with a label (`teachable`); the held-out ones are only measured.
        mllm, media: what the compressor is for.
        state: where to keep the state after each epoch; a training of the same key goes on from there.

    Raises:
        UserError: the state is that of another training, or the loss is no number.
    """
    device = best_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = Compressor(
            mllm, media=media, input_scale=settings.input_scale, channels=settings.channels, kernel=settings.kernel
        )
    net.to(device)
    optimiser = torch.optim.Adam(net.parameters())
    curves: list[Epoch] = []
    best: dict[str, Tensor] = {}
    if state is not None:
        losses, best = state.restore(net, optimiser)
        curves = [Epoch(*pair) for pair in losses]
    seen, unseen = (Samples(pairs, settings.zeroed) for pairs in (training, held_out))
    steps = -(-len(seen) // BATCH)
    bar = tqdm(total=settings.epochs * steps, initial=len(curves) * steps, desc="compressor", unit="batch")
    with bar, heap.kept() if device.type == "cpu" else nullcontext():
        while len(curves) < settings.epochs and not _stale(curves, settings.patience):
            train_kl = _pass(net, optimiser, seen, len(curves), settings, device, bar)
            curves.append(Epoch(train_kl, mean_kl(net, unseen, device)))
            if not all(map(math.isfinite, curves[-1])):
                raise UserError(f"the loss of epoch {len(curves)} is no number ({curves[-1]}): training cannot go on")
            if settings.patience is not None and _best(curves) == len(curves) - 1:
                best = {name: value.detach().clone() for name, value in net.state_dict().items()}
            if state is not None:
                state.save(net, optimiser, curves, best)
            bar.set_postfix(epoch=len(curves), KL=f"{train_kl:.4f}", held_out=f"{curves[-1].held_out_kl:.4f}")
    if best:
        net.load_state_dict(best)
    return Fitted(net.cpu().eval(), curves, (_best(curves) if best else len(curves) - 1) + 1)


def mean_kl(net: Compressor, samples: Samples, device: torch.device) -> float:
    """Mean loss over samples, in float32."""
    total = 0.0
    with torch.no_grad():
        for batch in samples.batches(range(len(samples)), device):
            logs = net.log_probabilities(batch.attention, batch.mask)
            total += float(kl_loss(batch.target, logs)) * len(batch.rows)
    return total / len(samples)


def _pass(
    net: Compressor,
    optimiser: torch.optim.Optimizer,
    samples: Samples,
    epoch: int,
    settings: Settings,
    device: torch.device,
    bar: Any,
) -> float:
    """One epoch; the mean loss over its samples. Its order follows from the seed and the epoch, so that a resumed
    training meets the order that it would have met."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch))
    total = torch.zeros((), device=device, dtype=torch.float64)
    with torch.enable_grad():  # `import vlmeval` switches gradients off for the whole process
        for chosen in order.split(BATCH):
            optimiser.zero_grad(set_to_none=True)
            for batch in samples.batches(chosen.tolist(), device):
                with _autocast(device, settings.precision):
                    logs = net.log_probabilities(batch.attention, batch.mask)
                loss = kl_loss(batch.target, logs) * (len(batch.rows) / len(chosen))
                loss.backward()
                total += loss.detach().double() * len(chosen)
            optimiser.step()
            bar.update()
    return float(total) / len(samples)


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _best(curves: Sequence[Epoch]) -> int:
    """Index of the first epoch of the lowest held-out loss."""
    return min(range(len(curves)), key=lambda number: curves[number].held_out_kl)


def _stale(curves: Sequence[Epoch], patience: int | None) -> bool:
    return patience is not None and bool(curves) and len(curves) - 1 - _best(curves) >= patience
