"""The model's own greedy response, which relevance explains."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from model_wrappers.positions import Shortened, left_pad
from model_wrappers.prompt import VisualPrompt

UNKNOWN_LIMIT = 32
"""New tokens of the response where no generate() call says how many (a bare forward pass)."""

# What shapes the output of a caller's generate() call, or chooses another search than greedy.
_NOT_FORWARDED = frozenset(
    """inputs kwargs use_cache streamer return_dict_in_generate output_attentions output_hidden_states output_scores
    output_logits do_sample temperature top_k top_p min_p typical_p num_beams num_return_sequences
    cache_implementation""".split()
)
_DEFAULTS = GenerationConfig()


def greedy_response(model: Any, prompt: VisualPrompt) -> Tensor:
    """[T] long, T >= 1: what the uncompressed model answers, end-of-sequence and padding taken off.

    `prompt.cache['response_ids']` is used where it is, and filled where it is not. Its length limit and other settings
    are those of the generate() call in progress (`prompt.cache['generate_kwargs']`).
    """
    if "response_ids" not in prompt.cache:
        settings = prompt.cache.get("generate_kwargs")
        settings = {"max_new_tokens": UNKNOWN_LIMIT} if settings is None else settings
        # All others that are settings at all; what is none is an input of the model, such as its pixels.
        known = {*vars(_DEFAULTS), *inspect.signature(type(model).generate).parameters, "tokenizer"} - _NOT_FORWARDED
        settings = {name: value for name, value in settings.items() if name in known}
        prompt.cache["response_ids"] = run_generate(model, prompt, None, **settings, **_GREEDY)[0]
    response = prompt.cache["response_ids"]
    ends = _end_ids(model)
    length = len(response)
    while length > 1 and int(response[length - 1]) in ends:
        length -= 1
    return response[:length]


_GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_k": None, "top_p": None}


def run_generate(model: Any, prompt: VisualPrompt, cuts: Sequence[Shortened] | None, **settings: Any) -> Tensor:
    """The new tokens [B, T] of Hugging Face's generate() on B cuts of a prompt; None is the uncut one.

    Cuts of different lengths are padded on the left; a row that ends before others is filled up. The uncut token ids go
    along, so that processors such as a repetition penalty see the prompt as they always do. Decoding goes on after the
    last row's position: text ends a cut as it ends the prompt, so that is one less than the cut's `next_position`.
    """
    embeds, positions, real = prompt.inputs_embeds[None], prompt.position_ids[:, None], None
    if cuts is not None:
        embeds, real = left_pad([cut.embeds for cut in cuts])
        positions = left_pad([cut.positions.T for cut in cuts])[0].permute(2, 0, 1)
    count, length = embeds.shape[:2]
    mask = torch.ones((count, length), dtype=torch.long, device=embeds.device) if real is None else real.long()
    output = type(model).generate(
        model,
        input_ids=prompt.input_ids.expand(count, -1),
        inputs_embeds=embeds,
        position_ids=positions if positions.shape[0] > 1 else positions[0],
        attention_mask=mask,
        **as_config(model, settings, None if cuts is None else length),
    )
    sequences = output if torch.is_tensor(output) else output.sequences
    return sequences[:, prompt.input_ids.shape[0] :]


def as_config(model: Any, settings: dict[str, Any], cut_length: int | None) -> dict[str, Any]:
    """The same settings with all that GenerationConfig knows inside one.

    Without a config, generate() builds a default configuration of the whole model at each call to look for misplaced
    settings: half of a short answer's time on a small model. The model's own generation config fills in what is not
    set, either way.
    """
    if "generation_config" in settings:
        config = copy.deepcopy(settings["generation_config"])
        rest = {name: value for name, value in settings.items() if name != "generation_config"}
    else:
        known = vars(_DEFAULTS)
        config = GenerationConfig(**{name: value for name, value in settings.items() if name in known})
        rest = {name: value for name, value in settings.items() if name not in known}
    if cut_length is not None:
        # Where ids and embeddings differ in length, generate() takes the embeddings' length off total-length limits.
        for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            limit = getattr(config, total) or getattr(model.generation_config, total)
            if limit and (getattr(config, new) or getattr(model.generation_config, new)) is None:
                setattr(config, total, limit + cut_length)
    return {"generation_config": config, **rest}


def _end_ids(model: Any) -> set[int]:
    config = model.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return {token for token in [*ends, config.pad_token_id] if token is not None}
