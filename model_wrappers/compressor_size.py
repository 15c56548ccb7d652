"""The compressor's size as section 4.1 of the paper has it, and what its convolutions cost. Loads no torch."""

from __future__ import annotations

CHANNELS = (32, 64, 128, 256, 512)
KERNEL = 3


def multiply_adds(n_visual: int, channels: tuple[int, ...] = CHANNELS, kernel: int = KERNEL) -> int:
    """Eq. 6: sum over the convolutions of n (C_in k + C_in C_out). The paper counts its five, not the last
    pointwise one."""
    widths = (1, *channels)
    return n_visual * sum(a * kernel + a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
