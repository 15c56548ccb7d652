"""VILA1.5 as a `PreTrainedModel`, laid out as Hugging Face lays out multimodal models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    Cache,
    GenerationMixin,
    LlamaModel,
    PreTrainedModel,
    SiglipVisionModel,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.utils import can_return_tuple

from model_wrappers.errors import UserError
from model_wrappers.vila.config import VilaConfig
from model_wrappers.vila.projector import VilaProjector


class VilaPreTrainedModel(PreTrainedModel):
    """What `from_pretrained`, `save_pretrained` and device maps need to know of both classes below."""

    config_class = VilaConfig
    config: VilaConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True


class VilaModel(VilaPreTrainedModel):
    """Tower, projector and decoder, without the output head."""

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config)
        self.vision_tower = SiglipVisionModel._from_config(config.vision_config)
        self.multi_modal_projector = VilaProjector(config)
        self.language_model = LlamaModel._from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Runs the tower and the projector.

        Args:
            pixel_values: [N, 3, S, S] preprocessed images, or frames of a video.

        Returns:
            `pooler_output`: a tuple of N tensors [n, d], each image's visual tokens in the order of
            `config.token_order`; the other fields are the tower's.
        """
        kwargs.pop("output_hidden_states", None)
        pixels = pixel_values.to(self.vision_tower.device, self.vision_tower.dtype)
        output = self.vision_tower(pixels, output_hidden_states=True, return_dict=True, **kwargs)
        chosen = output.hidden_states[self.config.vision_feature_layer]
        output.pooler_output = tuple(self.multi_modal_projector(chosen))
        return output

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, L, d] of token ids, the features of `pixel_values` in the places of the placeholders.

        Raises:
            UserError: placeholders and features differ in number, or images come with inputs_embeds.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, pixel_values)
        elif pixel_values is not None:
            raise UserError("pixel_values need input_ids, whose placeholders say where they go; not inputs_embeds")
        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def _embed(self, input_ids: Tensor | None, pixel_values: Tensor | None) -> Tensor:
        assert input_ids is not None
        places = torch.eq(input_ids, self.config.image_token_id)
        # The placeholder has no row in the embedding: it looks up row 0, which the features overwrite.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        wanted = int(places.sum())
        if pixel_values is None:
            if wanted:
                raise UserError(f"the prompt has {wanted} image placeholders but there are no pixel_values")
            return embeds
        features = torch.cat(self.get_image_features(pixel_values, return_dict=True).pooler_output)
        if wanted != features.shape[0]:
            raise UserError(f"the prompt has {wanted} image placeholders, the images gave {features.shape[0]} features")
        return embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds))


class VilaForConditionalGeneration(VilaPreTrainedModel, GenerationMixin):
    """VILA1.5 with its output head; `generate` takes what `VilaProcessor` returns.

    The placeholder lies outside the vocabulary, so `generate` with input ids cannot run logits processors that look
    every prompt token up in the logits, such as a repetition penalty other than 1.
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config)
        self.model = VilaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """`VilaModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, vocabulary], of the last `logits_to_keep` rows only where that is above 0.

        Args:
            input_ids: [B, L] token ids; `config.image_token_id` stands for a visual token.
            pixel_values: [N, 3, S, S] the images of all prompts, in their order.
            attention_mask: [B, L], 0 where padded.
            position_ids: [B, L]; None counts from 0.
            inputs_embeds: [B, L, d] in place of input_ids and pixel_values.
            labels: [B, L] token ids, -100 where there is nothing to learn (placeholders too).
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, rows])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,  # named, since generate() looks here whether it may pass them
        pixel_values: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The images go in with the prompt; afterwards the cache has them."""
        parent: Any = super()
        inputs = parent.prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
        return inputs


AutoModelForImageTextToText.register(VilaConfig, VilaForConditionalGeneration)
