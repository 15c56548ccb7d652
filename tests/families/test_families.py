"""Every family has the same surface, whatever its checkpoint."""

from __future__ import annotations

import inspect

import pytest

from model_wrappers.errors import UserError
from model_wrappers.families import FAMILIES, family_class
from model_wrappers.families.common import FamilyModel
from model_wrappers.families.kit import load_vlmeval

load_vlmeval()
from vlmeval.vlm.base import BaseModel  # noqa: E402


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_a_family_is_a_model_of_the_kits_with_our_surface(model_type: str) -> None:
    cls = family_class(model_type)
    assert issubclass(cls, FamilyModel) and issubclass(cls, BaseModel) and cls.INTERLEAVE
    for name in ("encode", "prepare", "answer", "generate_inner", "close"):
        assert getattr(cls, name) is getattr(FamilyModel, name), f"{name} is the same in all families"
    parameters = inspect.signature(cls).parameters
    shared = ["model_path", "method", "keep", "revision", "device", "dtype", "attn_implementation", "nframe", "fps"]
    for name in (*shared, "max_new_tokens", "do_sample", "repetition_penalty"):
        assert name in parameters
    assert parameters["do_sample"].default is False and parameters["repetition_penalty"].default == 1.0


def test_an_unknown_family_is_told() -> None:
    with pytest.raises(UserError, match="No model family 'gpt2'; known: llava_llama, llava_onevision, qwen2_vl"):
        family_class("gpt2")
