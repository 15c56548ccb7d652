"""The backward pass of causal attention that carries a row of relevance along, by blocks of query rows, in PyTorch.

Nothing of size n x n is made: a block of rows is multiplied with all keys before it, used, and dropped. It is what runs
where the Triton kernel (`model_wrappers.relevance.kernel`) does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROWS = 64
"""Query rows a block. More are not faster, and each holds heads x n numbers a few times over."""


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_output: Tensor,
    relevance: Tensor,
    *,
    scaling: float,
    clamp: bool,
    window: int | None,
    first_row: int,
    with_inputs: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of one attention for G targets at once, and r C of each (paper eq. 1, one row of it).

    P is the attention, dP the gradient of a target with respect to it: C = mean over heads of P * dP, its negatives set
    to 0 before the mean where `clamp` says so.

    Args:
        query: [H, n, d]; key, value: [H_kv, n, d], H a multiple of H_kv, positions already rotated in.
        grad_output: [G, H, n, d].
        relevance: [G, n] float32, the row r that arrives from the layer above.
        window: each row sees that many rows up to itself; None: all.
        first_row: rows before it have neither gradient nor relevance.
        with_inputs: whether dQ, dK and dV are wanted; without, they come back empty.

    Returns:
        dQ [G, H, n, d], dK and dV [G, H_kv, n, d] in the dtype of `query`; r C [G, n] float32. Nothing is rounded to
        that dtype on the way: each product is of float32 numbers.
    """
    targets, heads, length, dim = grad_output.shape
    groups = key.shape[0]
    wide = _wide(query.dtype)
    keys, values = key.to(wide), value.to(wide)
    carried = torch.zeros_like(relevance)
    if with_inputs:
        d_query = torch.zeros_like(grad_output)
        d_key = torch.zeros((targets, groups, length, dim), dtype=wide, device=query.device)
        d_value = torch.zeros_like(d_key)
    else:
        d_query, d_key, d_value = (grad_output.new_empty(0) for _ in range(3))
    for start, stop, low in _blocks(first_row, length, window):
        rows, seen = slice(start, stop), slice(low, stop)
        # The heads of a group share a key head, so they are folded beside the rows instead of copying keys.
        asked = query[:, rows].reshape(groups, -1, dim).to(wide)
        probabilities = attention(asked, keys[:, seen], start, stop, low, scaling, window)
        grads = grad_output[:, :, rows].reshape(targets, groups, -1, dim).to(wide)
        weighted = (grads @ values[:, seen].transpose(1, 2)).mul_(probabilities)  # P * dP
        if with_inputs:
            total = weighted.sum(dim=-1, keepdim=True)
            scores = torch.addcmul(weighted, probabilities, total, value=-1.0).mul_(scaling)
            d_query[:, :, rows] = (scores @ keys[:, seen]).view(targets, heads, -1, dim)
            d_key[:, :, seen] += scores.transpose(2, 3) @ asked
            d_value[:, :, seen] += probabilities.transpose(1, 2) @ grads
            del scores
        weighted = weighted.view(targets, -1, stop - low)
        if clamp:
            weighted = weighted.clamp_(min=0)
        of_rows = relevance[:, None, None, rows].to(wide).expand(-1, 1, heads, -1).reshape(targets, 1, -1)
        carried[:, seen] += (of_rows @ weighted)[:, 0].to(carried.dtype) / heads
    return d_query, d_key.to(query.dtype), d_value.to(query.dtype), carried


def carry_mean(query: Tensor, key: Tensor, relevance: Tensor, *, scaling: float, window: int | None) -> Tensor:
    """r C with C = mean over heads of P, of G rows at once: [G, n] float32. Shapes as in `backward`."""
    heads, length, dim = query.shape
    carried = torch.zeros_like(relevance)
    keys = key.to(_wide(key.dtype))
    for start, stop, low in _blocks(0, length, window):
        asked = query[:, start:stop].reshape(key.shape[0], -1, dim).to(keys.dtype)
        probabilities = attention(asked, keys[:, low:stop], start, stop, low, scaling, window)
        mean = probabilities.view(heads, stop - start, -1).mean(dim=0)
        carried[:, low:stop] += relevance[:, start:stop] @ mean.to(relevance.dtype)
    return carried


def attention(
    asked: Tensor, keys: Tensor, start: int, stop: int, low: int, scaling: float, window: int | None
) -> Tensor:
    """Post-softmax attention of rows start..stop-1 to rows low..stop-1.

    Args:
        asked: [H_kv, H / H_kv * (stop - start), d] queries, float32 or wider, the heads of a group beside the rows.
        keys: [H_kv, stop - low, d], as wide.

    Returns:
        [H_kv, H / H_kv * (stop - start), stop - low].
    """
    scores = (asked @ keys.transpose(1, 2)).mul_(scaling)
    rows = torch.arange(start, stop, device=scores.device)[:, None]
    columns = torch.arange(low, stop, device=scores.device)
    hidden = columns > rows
    if window is not None:
        hidden = hidden | (columns <= rows - window)
    folded = scores.view(scores.shape[0], -1, stop - start, stop - low)
    return folded.masked_fill_(hidden, float("-inf")).view(scores.shape).softmax(dim=-1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What products of such numbers are computed in."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _blocks(first_row: int, length: int, window: int | None) -> Iterator[tuple[int, int, int]]:
    """(first row, row after the last, first row that any of them sees), from the last rows to the first.

    Without a window the last see most, so that what one block frees has room for what the next one makes: in the
    other order the allocator leaves holes, some 50 MiB of them at 1,500 rows of 14 heads.
    """
    for start in reversed(range(first_row, length, ROWS)):
        yield start, min(start + ROWS, length), 0 if window is None else max(0, start - window + 1)
