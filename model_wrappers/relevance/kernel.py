"""`blocks.backward` as Triton kernels: what runs on a CUDA GPU. Importing this module imports Triton.

In the manner of the backward pass of FlashAttention-2 (Dao 2023, algorithm 2), with the relevance row beside it:

1. `_sums`, over blocks of query rows: log-sum-exp of each row's scores, and delta = dO . O, its sum of P * dP.
2. `_to_keys`, over blocks of keys: P and dP again, one block of rows after the other, and from them dK, dV and r C.
3. `_to_queries`, over blocks of query rows: P and dP once more, and dQ.

P, dP and their product never leave the chip. Each number is written by one program that adds in a fixed order, so the
same input gives the same bits on the same GPU; for the same reason block sizes come from a table, not from a timing.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 128
"""The largest head_dim: above it the tiles of one program do not fit in the shared memory of every GPU since Ampere."""
HALF = (torch.float16, torch.bfloat16)
LOG2_E = tl.constexpr(math.log2(math.e))
"""2^(x LOG2_E) = e^x: the GPU has an instruction for powers of 2 alone."""


def runs(query: Tensor) -> bool:
    """Whether these kernels can compute attention of such queries, on the GPU where they are.

    They need an NVIDIA GPU since Ampere (8.0: bfloat16 in tensor cores, and the shared memory), float32, bfloat16 or
    float16, a head_dim of at most `WIDEST`, and what Triton itself needs: a C compiler with the headers of Python.
    """
    return (
        query.is_cuda
        and torch.version.cuda is not None
        and query.dtype in (torch.float32, *HALF)
        and query.shape[-1] <= WIDEST
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and _triton_starts()
    )


@cache
def _triton_starts() -> bool:
    """Triton compiles its launcher with the system's C compiler, which many images for running models lack."""
    try:
        return triton.runtime.driver.active.get_current_target().backend == "cuda"
    except Exception as error:  # of subprocess, of the linker, or Triton's own: it has no class for this
        warnings.warn(f"Triton does not start ({error}); relevance runs in PyTorch, which is slower.", stacklevel=2)
        return False


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
    """As `blocks.backward`, to which it is equal but for rounding.

    Scores, P, dP and the relevance are float32 in both; of a half dtype, the factors of the products that make dQ, dK
    and dV are rounded to it here, as FlashAttention does, so that they run in the tensor cores.

    Args:
        query: [H, n, d]; key, value: [H_kv, n, d], H a multiple of H_kv, positions already rotated in.
        grad_output: [G, H, n, d].
        relevance: [G, n] float32, the row r that arrives from the layer above.
        window: each row sees that many rows up to itself; None: all.
        first_row: rows before it have neither gradient nor relevance.
        with_inputs: whether dQ, dK and dV are wanted; without, they come back empty.

    Returns:
        dQ [G, H, n, d], dK and dV [G, H_kv, n, d] in the dtype of `query`, summed in float32; r C [G, n] float32.
    """
    targets, heads, length, dim = grad_output.shape
    groups = key.shape[0]
    query, key, value, grad_output, relevance = (
        tensor.contiguous() for tensor in (query, key, value, grad_output, relevance)
    )
    sums = torch.empty((heads, length), dtype=torch.float32, device=query.device)
    deltas = sums.new_empty((targets, heads, length) if with_inputs else 0)
    by_head = sums.new_empty((targets, heads, length))
    if with_inputs:
        d_query = torch.zeros_like(grad_output)  # zeros: no program has the rows before first_row
        d_key, d_value = (key.new_empty((targets, *key.shape)) for _ in range(2))
    else:
        d_query, d_key, d_value = (grad_output.new_empty(0) for _ in range(3))
    tiles = _tiles(query.dtype, dim)
    row_blocks = triton.cdiv(length - first_row, tiles["ROWS"])
    key_blocks = triton.cdiv(length, tiles["KEYS"])
    inputs = (query, key, value, grad_output)
    numbers = (scaling, first_row, length, length if window is None else min(window, length))
    # Of several GPUs the tensors' own one, which need not be the current one.
    with torch.cuda.device_of(query):
        _sums[row_blocks, heads](
            *inputs, sums, deltas, *numbers, targets, heads, heads // groups, WITH_INPUTS=with_inputs, **tiles
        )
        _to_keys[key_blocks, groups, targets](
            *inputs, sums, deltas, relevance, d_key, d_value, by_head, *numbers, heads, heads // groups,
            CLAMP=clamp, WITH_INPUTS=with_inputs, **tiles,
        )  # fmt: skip
        if with_inputs:
            _to_queries[row_blocks, heads, targets](
                *inputs, sums, deltas, d_query, *numbers, heads, heads // groups, **tiles
            )
    return d_query, d_key, d_value, by_head.mean(dim=1)


def _tiles(dtype: torch.dtype, dim: int) -> dict[str, Any]:
    """Block sizes: what fits in 99 KiB of shared memory, the least since Ampere, with hardly a register spilled."""
    width = max(16, triton.next_power_of_2(dim))
    side = 64 if dtype in HALF else 32
    warps = 8 if width == 128 else 4
    return {"DIM": dim, "WIDTH": width, "ROWS": side, "KEYS": side, "num_warps": warps, "num_stages": 2}


# In the kernels, `scaling` to `window` are as in `backward`, the window always a number; `heads` is H and `group` is
# H / H_kv. Tiles are ROWS or KEYS times WIDTH, the power of two from DIM = head_dim; what lies outside is read as 0.
# These numbers change from prompt to prompt, and Triton must not compile anew for those that divide by 16:
_VARIES = ["first_row", "length", "window", "targets"]


@triton.jit
def _tile(pointer, rows, length, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of a matrix [length, DIM]."""
    dims = tl.arange(0, WIDTH)
    inside = (rows[:, None] < length) & (dims[None, :] < DIM)
    return tl.load(pointer + rows[:, None] * DIM + dims[None, :], mask=inside, other=0.0)


@triton.jit
def _put(pointer, tile, rows, length, DIM: tl.constexpr, WIDTH: tl.constexpr):
    dims = tl.arange(0, WIDTH)
    inside = (rows[:, None] < length) & (dims[None, :] < DIM)
    tl.store(pointer + rows[:, None] * DIM + dims[None, :], tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _product(left, right):
    """In float32; float32 factors are not cut to TensorFloat-32."""
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _seen(rows, columns, length, window):
    """Which row sees which column; the two broadcast. Rows past the end see nothing."""
    return (columns <= rows) & (columns > rows - window) & (rows < length)


@triton.jit(do_not_specialize=_VARIES)
def _sums(
    query, key, value, grad_output, sums, deltas, scaling, first_row, length, window, targets, heads, group,
    DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WITH_INPUTS: tl.constexpr,
):  # fmt: skip
    """Program (row block, head): sums [H, n], log2 of the row's sum of 2^scores, and deltas [G, H, n]."""
    # The last rows see most, so their programs start first.
    start = first_row + (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    head = tl.program_id(1).to(tl.int64)  # as are all factors of length * DIM: it may pass 2^31
    rows = start + tl.arange(0, ROWS)
    key += head // group * length * DIM
    value += head // group * length * DIM
    asked = _tile(query + head * length * DIM, rows, length, DIM, WIDTH)
    # Not -inf, as -inf - -inf is no number: rows past the end see nothing, and were ROWS more than KEYS, some row might
    # see nothing of the first block.
    highest = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    output = tl.zeros([ROWS, WIDTH], tl.float32)
    for low in range(tl.maximum(0, start - window + 1), tl.minimum(length, start + ROWS), KEYS):
        columns = low + tl.arange(0, KEYS)
        keys = _tile(key, columns, length, DIM, WIDTH)
        scores = _product(asked, tl.trans(keys)) * (scaling * LOG2_E)
        scores = tl.where(_seen(rows[:, None], columns[None, :], length, window), scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        if WITH_INPUTS:
            values = _tile(value, columns, length, DIM, WIDTH)
            output = output * shrink[:, None] + _product(weights.to(values.dtype), values)
        highest = higher
    tl.store(sums + head * length + rows, highest + tl.log2(total), mask=rows < length)
    if WITH_INPUTS:
        output = output / total[:, None]
        for target in range(targets):
            at = target * heads + head
            grads = _tile(grad_output + at * length * DIM, rows, length, DIM, WIDTH)
            tl.store(deltas + at * length + rows, tl.sum(output * grads.to(tl.float32), 1), mask=rows < length)


@triton.jit(do_not_specialize=_VARIES)
def _to_keys(
    query, key, value, grad_output, sums, deltas, relevance, d_key, d_value, by_head,
    scaling, first_row, length, window, heads, group, DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, CLAMP: tl.constexpr, WITH_INPUTS: tl.constexpr,
):  # fmt: skip
    """Program (key block, key head, target): d_key and d_value [G, H_kv, n, DIM]; by_head [G, H, n], r P * dP."""
    start = tl.program_id(0) * KEYS
    of_keys, target = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    columns = start + tl.arange(0, KEYS)
    keys = _tile(key + of_keys * length * DIM, columns, length, DIM, WIDTH)
    values = _tile(value + of_keys * length * DIM, columns, length, DIM, WIDTH)
    to_keys = tl.zeros([KEYS, WIDTH], tl.float32)
    to_values = tl.zeros([KEYS, WIDTH], tl.float32)
    # The first row that sees a key of the block, and the row after the last one.
    first, stop = tl.maximum(first_row, start), tl.minimum(length, start + KEYS - 1 + window)
    for member in range(group):
        head = of_keys * group + member
        at = target * heads + head
        carried = tl.zeros([KEYS], tl.float32)
        for low in range(first, stop, ROWS):  # all transposed, [KEYS, ROWS]
            rows = low + tl.arange(0, ROWS)
            asked = _tile(query + head * length * DIM, rows, length, DIM, WIDTH)
            grads = _tile(grad_output + at * length * DIM, rows, length, DIM, WIDTH)
            sum_of_row = tl.load(sums + head * length + rows, mask=rows < length, other=0.0)
            of_row = tl.load(relevance + target * length + rows, mask=rows < length, other=0.0)
            scores = _product(keys, tl.trans(asked)) * (scaling * LOG2_E)
            seen = _seen(rows[None, :], columns[:, None], length, window)
            weights = tl.where(seen, tl.exp2(scores - sum_of_row[None, :]), 0.0)
            weighted = weights * _product(values, tl.trans(grads))
            kept = weighted
            if CLAMP:
                kept = tl.where(weighted < 0, 0.0, weighted)  # a NaN stays one; tl.maximum would make it 0
            carried += tl.sum(kept * of_row[None, :], 1)
            if WITH_INPUTS:
                delta = tl.load(deltas + at * length + rows, mask=rows < length, other=0.0)
                to_values += _product(weights.to(grads.dtype), grads)
                to_keys += _product((weighted - weights * delta[None, :]).to(asked.dtype), asked)
        tl.store(by_head + at * length + columns, carried, mask=columns < length)
    if WITH_INPUTS:
        at_keys = (target * (heads // group) + of_keys) * length * DIM
        _put(d_key + at_keys, to_keys * scaling, columns, length, DIM, WIDTH)
        _put(d_value + at_keys, to_values, columns, length, DIM, WIDTH)


@triton.jit(do_not_specialize=_VARIES)
def _to_queries(
    query, key, value, grad_output, sums, deltas, d_query, scaling, first_row, length, window, heads, group,
    DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Program (row block, head, target): d_query [G, H, n, DIM]."""
    start = first_row + (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    head, target = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    at = target * heads + head
    rows = start + tl.arange(0, ROWS)
    key += head // group * length * DIM
    value += head // group * length * DIM
    asked = _tile(query + head * length * DIM, rows, length, DIM, WIDTH)
    grads = _tile(grad_output + at * length * DIM, rows, length, DIM, WIDTH)
    sum_of_row = tl.load(sums + head * length + rows, mask=rows < length, other=0.0)
    delta = tl.load(deltas + at * length + rows, mask=rows < length, other=0.0)
    to_queries = tl.zeros([ROWS, WIDTH], tl.float32)
    for low in range(tl.maximum(0, start - window + 1), tl.minimum(length, start + ROWS), KEYS):
        columns = low + tl.arange(0, KEYS)
        keys = _tile(key, columns, length, DIM, WIDTH)
        values = _tile(value, columns, length, DIM, WIDTH)
        scores = _product(asked, tl.trans(keys)) * (scaling * LOG2_E)
        seen = _seen(rows[:, None], columns[None, :], length, window)
        weights = tl.where(seen, tl.exp2(scores - sum_of_row[:, None]), 0.0)
        of_scores = weights * (_product(grads, tl.trans(values)) - delta[:, None])
        to_queries += _product(of_scores.to(keys.dtype), keys)
    _put(d_query + at * length * DIM, to_queries * scaling, rows, length, DIM, WIDTH)
