"""Floating-point operations, two conventions, always named.

`paper`: of the visual tokens in the language model, arXiv 2506.01097, eq. 4 to 6; a multiply-add is one operation.
`exact`: of every matrix product of a prefill, text and vision included; a multiply-add is two operations.

    shape = shape_of("Qwen2-VL-7B-Instruct")                        # or the folder of any config.json
    found = count(shape, method("fastv", layer=4), 0.25, PromptSize(visual=1302, text=64, instruction=50))
    found.equivalent_tokens, found.paper, found.exact.total, found.kv_bytes
"""

from harness.flops.count import Count, Exact, UnknownInput, by_paper, count
from harness.flops.shapes import BYTES, of_config, read, shape_of
from model_wrappers.shape import Decoder, PromptSize, Shape, Tiling, Tower

__all__ = ["BYTES", "Count", "Decoder", "Exact", "PromptSize", "Shape", "Tower", "by_paper", "count"]
__all__ += ["Tiling", "UnknownInput", "of_config", "read", "shape_of"]
