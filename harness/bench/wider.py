"""Models in a wider dtype than their own, all of it: what rounding is measured against.

transformers computes norms and the softmax of attention maps in float32, whatever the model's dtype.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model_wrappers.anatomy import language_model


class Wider:
    """Copies of two models: `full`, which is in float32, in float64; `half`, which is in bfloat16, in float32."""

    def __init__(self, full: Any, half: Any) -> None:
        self.full, self.half = copy.deepcopy(full).double(), copy.deepcopy(half).float()
        for module in language_model(self.full).modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(_norm, module)


class softmax_as_given(TorchFunctionMode):  # noqa: N801, used as a function
    """Within it a softmax is computed in the dtype of its input, whatever is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.softmax:
            kwargs.pop("dtype", None)
        return func(*args, **kwargs)


def _norm(module: Any, hidden: Tensor) -> Tensor:
    scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * hidden * scale
