"""Training target and loss of the compressor (paper section 3.3, 'Training Objectives', eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def label(relevance: Tensor, mask: Tensor | None = None, *, zeroed: float = 0.5) -> Tensor:
    """R_v*: the lowest half of R_v set to zero, the rest divided by its sum.

    Args:
        relevance: [B, N_v] or [N_v], not negative. Of an odd number the smaller half is zeroed; of equal values at the
            border the later ones are.
        mask: [B, N_v] bool, False where padded; padded places get 0.
        zeroed: which share is set to zero, 0 or more and below 1; of N_v tokens floor(zeroed * N_v) are. The paper's is
            one half.

    Returns:
        Probabilities of the shape of `relevance`, float32.

    Raises:
        ValueError: negative or non-finite relevance, or nothing but zeros in the upper part: there is no label then; or
            `zeroed` out of its range.
    """
    if not 0 <= zeroed < 1:
        raise ValueError(f"zeroed={zeroed}: the share of a label set to zero is 0 or more and below 1")
    batched = relevance.float() if relevance.ndim == 2 else relevance.float()[None]
    real = torch.ones_like(batched, dtype=torch.bool) if mask is None else mask.reshape(batched.shape)
    values = batched.masked_fill(~real, 0.0)
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError("a label needs finite relevance of 0 or more (relevance with clamp=True gives it)")
    order = batched.masked_fill(~real, -1.0).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    count = real.sum(dim=-1, keepdim=True)
    upper = values.masked_fill(rank >= count - (count * zeroed).floor().long(), 0.0)
    total = upper.sum(dim=-1, keepdim=True)
    if bool((total <= 0).any()):
        raise ValueError("relevance is zero for every visual token: there is nothing to learn from")
    return (upper / total).reshape(relevance.shape)


def kl_loss(target: Tensor, log_prediction: Tensor) -> Tensor:
    """Eq. 3: KL(target || prediction), summed over tokens, mean over the batch; a scalar.

    Args:
        target: [B, N_v] probabilities; places of probability 0 (the lower part, padding) cost nothing.
        log_prediction: [B, N_v] logarithms of the predicted probabilities (`Compressor.log_probabilities`).
    """
    positive = target > 0
    log_target = target.clamp_min(torch.finfo(target.dtype).tiny).log()
    return ((log_target - log_prediction) * target).where(positive, target.new_zeros(())).sum(dim=-1).mean()
