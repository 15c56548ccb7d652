"""What the kernels of relevance are asked in their tests; run as a program, what they answer in Triton's interpreter.

The interpreter is chosen by TRITON_INTERPRET=1, which Triton reads while it is imported (its own library of functions
is decorated then) and for good. In the tests' process that would depend on who imported Triton first, and would leave
every later user of it interpreted. So a process of its own computes all cases and hands the numbers back in a file:

    TRITON_INTERPRET=1 python -m tests.model_wrappers.kernel_cases FILE.safetensors
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model_wrappers.relevance import carried

NAMES = ("d_query", "d_key", "d_value", "carried")


@dataclass(frozen=True)
class Case:
    """One call of `backward`. A program's blocks are 32 rows long in float32, 64 in the halves."""

    name: str
    length: int
    heads: int = 2
    groups: int = 1
    dim: int = 16
    targets: int = 1
    window: int | None = None
    clamp: bool = True
    first_row: int = 0
    with_inputs: bool = True
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    """How many times larger than usual the scores are."""
    strided: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def inputs(self) -> list[Tensor]:
        """Query, key, value, the gradient of each target, and the row of relevance: seeded by the name."""
        generator = torch.Generator().manual_seed(sum(self.name.encode()))
        shapes = [(self.heads,), (self.groups,), (self.groups,), (self.targets, self.heads)]
        made = [torch.randn((*shape, self.length, self.dim), generator=generator) for shape in shapes]
        made = [tensor.to(self.dtype) for tensor in made]
        if self.strided:  # as a model has them: heads beside each other in a row, one gradient for all targets
            made = [tensor.transpose(-2, -3).contiguous().transpose(-2, -3) for tensor in made]
            made[3] = made[3][:1].expand_as(made[3])
        return [*made, torch.randn((self.targets, self.length), generator=generator)]

    def options(self) -> dict[str, Any]:
        names = ("window", "clamp", "first_row", "with_inputs")
        return {"scaling": self.scale * self.dim**-0.5, **{name: getattr(self, name) for name in names}}


VIEWS = Case("views", 40, strided=True, targets=3)
CASES = [
    Case("one target", 70, heads=4, groups=2),
    Case("three targets without clamp", 50, heads=4, groups=2, targets=3, clamp=False),
    Case("seven heads to a key head", 40, heads=14, groups=2),
    Case("as many key heads", 41, heads=3, groups=3, clamp=False),
    Case("whole blocks", 64),
    Case("less than a block", 5, targets=3),
    Case("one row", 1),
    Case("window", 100, heads=4, groups=2, window=40),
    Case("window without clamp", 70, window=7, clamp=False, targets=2),
    Case("window of one block", 97, window=32),
    Case("each row sees itself alone", 40, window=1),
    Case("window longer than the prompt", 40, window=2**31 - 1),
    Case("last rows", 77, heads=4, groups=2, first_row=50),
    Case("last row", 77, first_row=76, clamp=False),
    Case("last rows in a window", 100, first_row=45, window=33, targets=3),
    Case("relevance alone", 77, heads=4, groups=2, with_inputs=False, targets=3),
    Case("relevance alone in a window without clamp", 77, with_inputs=False, window=20, clamp=False),
    Case("relevance alone of the last rows", 77, with_inputs=False, first_row=70),
    Case("head_dim 72", 40, dim=72),
    Case("head_dim 80 in a window", 40, dim=80, window=9),
    Case("head_dim 8", 40, dim=8),
    Case("head_dim 128", 40, dim=128),
    Case("large scores", 40, scale=30.0),
    VIEWS,
    Case("bfloat16", 100, heads=4, groups=2, dtype=torch.bfloat16, dim=64, targets=2),
    Case("bfloat16 in a window without clamp", 140, dtype=torch.bfloat16, window=50, clamp=False),
    Case("bfloat16 last rows", 100, dtype=torch.bfloat16, dim=80, heads=7, first_row=61),
    Case("bfloat16 relevance alone", 100, dtype=torch.bfloat16, with_inputs=False),
    Case("float16", 100, dtype=torch.float16, dim=32, window=60),
]


def by(backward: Any, case: Case, device: str = "cpu") -> dict[str, Tensor]:
    inputs = [tensor.to(device) for tensor in case.inputs()]
    return dict(zip(NAMES, backward(*inputs, **case.options()), strict=True))


def through_autograd(case: Case) -> dict[str, Tensor]:
    """The gradients as `carried` is asked for them: several targets in one pass, views of other tensors everywhere."""
    query, key, value, grads, relevance = case.inputs()
    inputs = [tensor[None].requires_grad_() for tensor in (query, key, value)]
    row = torch.zeros((1, case.length), requires_grad=True)
    how = [case.options()[name] for name in ("scaling", "clamp", "window", "first_row")]
    left = carried._Attention.apply(*inputs, row, *how)
    down = partial(torch.autograd.grad, left, (*inputs, row))
    return dict(zip(NAMES, torch.func.vmap(down)((grads[:, None], relevance[:, None])), strict=True))


def _compute(file: str) -> None:
    assert "model_wrappers.relevance.kernel" not in sys.modules, "the package must import where there is no Triton"
    from model_wrappers.relevance import kernel

    _mend_bfloat16()
    found = {}
    for case in CASES:
        for name, tensor in by(kernel.backward, case).items():
            found[f"{case.name}/{name}"] = tensor.clone()
    carried._backend = lambda query: kernel.backward
    save_file({**found, **through_autograd(VIEWS)}, file)


def _mend_bfloat16() -> None:
    """Triton 3.8's interpreter multiplies the bits of bfloat16 as if they were integers, and cuts where GPUs round."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert, multiply = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def rounded(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) == (tl.float32, tl.bfloat16):
            return torch.from_numpy(data).bfloat16().view(torch.uint16).numpy()
        return convert(data, source, target, mode)

    def widened(builder: Any, left: Any, right: Any, *others: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            left, right = (builder.cast_impl(factor, tl.float32) for factor in (left, right))
        return multiply(builder, left, right, *others)

    interpreter._convert_float = rounded
    interpreter.InterpreterBuilder.create_dot = widened


if __name__ == "__main__":
    _compute(sys.argv[1])
