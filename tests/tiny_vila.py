"""A tiny random VILA1.5 in the layout in which the real one is published, or in our own: CPU, offline, under 1 MB.

The parts are Hugging Face's own classes with random weights, so that a test can put them together by itself. The
tokenizer knows the 256 bytes and Llama-3's special tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from model_wrappers.vila import VilaProcessor, load_hub_layout
from tests.tiny import own_folder

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[PAD]",
)
PATCH = 8
"""Pixels along one side of a patch."""


def llama_tokenizer(*, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Llama-3's special tokens.

    Args:
        adds_bos: puts `<|begin_of_text|>` before every text, as Meta's later tokenizers do (its first did not).
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    if adds_bos:
        bos = SPECIAL_TOKENS[0]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=None, special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="[PAD]"
    )


def tiny_vila(
    folder: Path | str | None = None,
    *,
    seed: int = 0,
    layout: str = "retain",
    patches: int = 8,
    adds_bos: bool = False,
    root: dict[str, Any] | None = None,
    **text: Any,
) -> Path:
    """Saves the tiny checkpoint (model and processor) and returns its folder.

    Args:
        folder: where to save; None makes one temporary folder a process for each set of arguments.
        seed: of the random weights.
        layout: "hub" is the published one (llm/, vision_tower/, mm_projector/), "retain" our own.
        patches: along one side of an image. 8 gives 4 x 4 visual tokens, and so does 7, whose last ones are padded.
        adds_bos: of the tokenizer.
        root: further keys of the published root config.json, such as token_order="row".
        text: overrides of the text config, such as ``num_hidden_layers=4``.
    """
    if folder is None:
        key = repr((seed, layout, patches, adds_bos, sorted((root or {}).items()), sorted(text.items())))
        if key not in _built:
            target = own_folder()
            _built[key] = tiny_vila(
                target, seed=seed, layout=layout, patches=patches, adds_bos=adds_bos, root=root, **text
            )
        return _built[key]
    folder = Path(folder)
    if layout == "hub":
        _publish(folder, seed, patches, adds_bos, root or {}, text)
        return folder
    hub = tiny_vila(None, seed=seed, layout="hub", patches=patches, adds_bos=adds_bos, root=root, **text)
    load_hub_layout(hub).save_pretrained(folder)
    VilaProcessor.from_pretrained(hub).save_pretrained(folder)
    return folder


_built: dict[str, Path] = {}


def _publish(folder: Path, seed: int, patches: int, adds_bos: bool, root: dict[str, Any], text: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokenizer = llama_tokenizer(adds_bos=adds_bos)
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    llm = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
            "bos_token_id": token["<|begin_of_text|>"],
            "eos_token_id": token["<|end_of_text|>"],
            "tie_word_embeddings": False,
            "tokenizer_model_max_length": 4096,
            **text,
        }
    )
    decoder = _random(LlamaForCausalLM(llm), generator)
    # What Meta publishes: sampling, and one of the two ends only.
    decoder.generation_config = GenerationConfig(
        bos_token_id=llm.bos_token_id, eos_token_id=llm.eos_token_id, do_sample=True, temperature=0.6, top_p=0.9
    )
    decoder.save_pretrained(folder / "llm", max_shard_size="100KB")
    tokenizer.save_pretrained(folder / "llm")

    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=patches * PATCH,
        patch_size=PATCH,
    )
    tower = _random(SiglipVisionModel(vision), generator)
    tower.config.save_pretrained(folder / "vision_tower")
    names = {f"vision_model.{name}": tensor.contiguous() for name, tensor in tower.state_dict().items()}
    save_file(names, folder / "vision_tower" / "model.safetensors", {"format": "pt"})
    side = {"height": patches * PATCH, "width": patches * PATCH}
    SiglipImageProcessorPil(size=side).save_pretrained(folder / "vision_tower")

    width = 4 * vision.hidden_size
    steps = (nn.Identity(), nn.LayerNorm(width), nn.Linear(width, llm.hidden_size), nn.GELU())
    projector = _random(nn.Sequential(*steps, nn.Linear(llm.hidden_size, llm.hidden_size)), generator)
    (folder / "mm_projector").mkdir(exist_ok=True)
    names = {f"layers.{name}": tensor.contiguous() for name, tensor in projector.state_dict().items()}
    save_file(names, folder / "mm_projector" / "model.safetensors", {"format": "pt"})
    _write(folder / "mm_projector", {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample"})
    _write(
        folder,
        {
            "architectures": ["LlavaLlamaModel"],
            "model_type": "llava_llama",
            "hidden_size": llm.hidden_size,
            "mm_hidden_size": vision.hidden_size,
            "image_aspect_ratio": "resize",
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "cls_patch",
            "num_video_frames": 8,
            "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False,
            "model_dtype": "torch.float32",
            "s2": False,
            "llm_cfg": {"_name_or_path": "elsewhere/llm"},
            "vision_tower_cfg": {"_name_or_path": "elsewhere/vision_tower"},
            "mm_projector_cfg": {"_name_or_path": "elsewhere/mm_projector"},
            **root,
        },
    )


def _random(model: Any, generator: torch.Generator) -> Any:
    """Weights wide enough that attention is far from uniform, where every method's scores would be ties."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                if name.endswith("bias"):
                    parameter.normal_(0.0, 0.1, generator=generator)
                continue
            std = 1.0 if "embed_tokens" in name else 1.4 / parameter[0].numel() ** 0.5
            parameter.normal_(0.0, std, generator=generator)
    return model.eval()


def _write(folder: Path, content: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(content, indent=2))
