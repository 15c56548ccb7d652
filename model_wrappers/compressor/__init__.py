"""The learned compressor f_theta of paper section 3.3: the network, its labels and loss, its checkpoints."""

from model_wrappers.compressor.label import kl_loss, label
from model_wrappers.compressor.net import Compressor

__all__ = ["Compressor", "kl_loss", "label"]
