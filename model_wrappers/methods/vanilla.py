"""The uncompressed model: the denominator of every preservation."""

from model_wrappers.methods.base import Vanilla

__all__ = ["Vanilla"]
