"""The learned compressor's line: a training set made from a model's own right answers, training, and its proof.

The network, its label and its loss are `model_wrappers.compressor`'s; here is where its samples come from and how they
are kept.
"""
