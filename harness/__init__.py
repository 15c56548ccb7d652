"""Turns models x methods x keeps x benchmarks into tables. Knows nothing of attention; `model_wrappers` does."""

__version__ = "0.1.0"
