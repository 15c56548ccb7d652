"""What a run imports, imported; `tests.warm` has it done once for many processes."""

from __future__ import annotations

import importlib

from harness.vlmevalkit import kit

kit("vlmeval.dataset")
for name in (
    "torch",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "transformers.models.qwen2_vl.processing_qwen2_vl",
    "model_wrappers.families.qwen2_vl",
    *(f"harness.{name}" for name in ("cli", "models", "plan", "results", "scoring", "sweep", "sweep.decoding")),
):
    importlib.import_module(name)
