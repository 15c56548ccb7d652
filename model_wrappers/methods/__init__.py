"""The compression methods, one file each. `model_wrappers.registry` finds them by name."""
