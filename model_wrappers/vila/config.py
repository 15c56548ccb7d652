"""Configuration of VILA1.5: a Llama decoder, a SigLIP tower, and how the projector orders what it makes."""

from __future__ import annotations

from typing import Any, Literal

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig, SiglipVisionConfig


class VilaConfig(PreTrainedConfig):
    """What `VilaForConditionalGeneration` is built from; saved as `config.json` with model_type `retain_vila`.

    Raises:
        ValueError: a token order that is neither of the two, or a tower whose patches are no square.
    """

    model_type = "retain_vila"
    sub_configs = {"text_config": LlamaConfig, "vision_config": SiglipVisionConfig}

    text_config: Any = None
    """LlamaConfig, or a dict of its fields."""
    vision_config: Any = None
    """SiglipVisionConfig, or a dict of its fields."""
    vision_feature_layer: int = -2
    """Which of the tower's hidden states goes to the projector; -1 is the last layer's, before `post_layernorm`."""
    token_order: Literal["column", "row"] = "column"
    """Order of an image's visual tokens. VILA1.5's own code (May to October 2024) goes down the columns; NVILA's
    (December 2024 on) goes along the rows. Weights do not say which they were trained with."""
    image_token_id: Any = None
    """Placeholder of a visual token: no token of the vocabulary, but one past the embedding's last row."""
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, LlamaConfig):
            self.text_config = LlamaConfig(**(self.text_config or {}))
        if not isinstance(self.vision_config, SiglipVisionConfig):
            # The tower's pooling head is of no use here; without this field SigLIP's class builds it.
            self.vision_config = SiglipVisionConfig(**{"vision_use_head": False, **(self.vision_config or {})})
        if self.image_token_id is None:
            self.image_token_id = self.text_config.vocab_size
        if self.token_order not in ("column", "row"):
            raise ValueError(f"token_order is 'column' or 'row', not {self.token_order!r}")
        size, patch = self.vision_config.image_size, self.vision_config.patch_size
        if not isinstance(size, int) or not isinstance(patch, int):
            raise ValueError(f"the tower's image_size and patch_size must be whole numbers, not {size!r} and {patch!r}")
        super().__post_init__(**kwargs)

    @property
    def n_patches(self) -> int:
        """Patches along one side of the tower's square image."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def n_cells(self) -> int:
        """Visual tokens along one side of an image: 2 x 2 patches each, the last ones padded where patches are odd."""
        return (self.n_patches + 1) // 2

    @property
    def n_image_tokens(self) -> int:
        """Visual tokens of one image."""
        return self.n_cells**2


AutoConfig.register("retain_vila", VilaConfig)
