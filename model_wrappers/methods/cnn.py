"""The paper's compressor (arXiv 2506.01097, section 3.3): relevance predicted before the language model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from model_wrappers.compressor_size import CHANNELS, multiply_adds
from model_wrappers.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from model_wrappers.prompt import VisualPrompt
    from model_wrappers.shape import PromptSize, Shape


@dataclass(frozen=True)
class CNN(Scorer):
    """f_theta(A_v^0): a small convolutional network on the scores of `first_layer_attention`. Cut at the LLM input.

    `compressor` is a folder or hub id (`owner/name`, `owner/name@revision`), of a compressor or of one for each kind of
    media; None looks into the checkpoint folder. There lie `compressor-video/` and `compressor-image/`, taken as the
    prompt's `media` says: a video where a video placeholder is among its visual tokens.
    VILA has none and takes a video as images: its VLMEvalKit class says "video" where the dataset is one of videos,
    while for `compress()` alone all its prompts are images.
    """

    name: ClassVar[str] = "cnn"
    compressor: str | None = None

    def score(self, model: Any, prompt: VisualPrompt) -> Tensor:
        from model_wrappers.compressor.load import compressor_for
        from model_wrappers.relevance.attention import prompt_first_layer_attention

        net = compressor_for(model, prompt, self.compressor)
        return predict(net, prompt_first_layer_attention(model, prompt))

    def scoring_flops(self, shape: Shape, prompt: PromptSize, keep: float) -> float:
        """Those of A_v^0, and of the network as section 4.1 has it."""
        attention = shape.decoder.attention_rows(max(1, prompt.instruction), prompt.length)
        return attention + 2.0 * (multiply_adds(prompt.visual) + prompt.visual * CHANNELS[-1])

    def paper_flops(self, shape: Shape, n_visual: int) -> float:
        """Eq. 5 and 6: nd^2 + nd for A_v^0, and the five convolutions."""
        hidden = shape.decoder.hidden
        return n_visual * hidden**2 + n_visual * hidden + multiply_adds(n_visual)


def predict(net: Any, attention: Tensor) -> Tensor:
    """Probabilities [N_v] that `net` gives for A_v^0 [N_v]."""
    import torch

    with torch.no_grad():
        return net(attention[None])[0]
