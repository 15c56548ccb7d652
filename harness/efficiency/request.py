"""What `retain efficiency` was asked for, checked before any weights are loaded or made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.efficiency import limits, shapes
from harness.efficiency.inputs import Input, Media, make
from harness.efficiency.limits import DECODED, KEEPS, REPEATS
from harness.efficiency.variants import Variant, variants
from model_wrappers.errors import UserError


@dataclass(frozen=True, eq=False)
class Request:
    """One model on one input."""

    model: str
    random_weights: bool
    config: Any
    """Of the model to be measured: with --layers, of fewer layers than the published one."""
    tokens: int
    """Visual tokens asked for; a video of LLaVA-OneVision has one more, its newline."""
    given: Input
    variants: tuple[Variant, ...]
    """Vanilla first."""
    repeats: int = REPEATS
    decoded: int = DECODED
    whole: tuple[int, int] = (0, 0)
    """Layers of the language model and of the vision encoder before --layers."""
    words: tuple[str, ...] = field(default=())
    """The command's own arguments."""

    @property
    def command(self) -> str:
        """The command that asks for this."""
        return shlex.join(["retain", "efficiency", *self.words])


def check(
    model: str,
    tokens: int,
    *,
    methods: Sequence[str] = (),
    keeps: Sequence[float] = KEEPS,
    media: Media = "image",
    random_weights: bool = False,
    layers: int | None = None,
    repeats: int = REPEATS,
    decoded: int = DECODED,
    words: Sequence[str] = (),
) -> Request:
    """The request, everything in it checked on the model's config and on a model without weights.

    Args:
        model: a known name or a checkpoint folder; with `random_weights` one of `shapes.shape_names()`.
        tokens: visual tokens of the input.
        methods: names, with fields as in `fastv:layer=2`; none of them: every method that is registered.
        keeps: shares of the visual tokens.
        layers: of random weights: the most layers that the language model and the vision encoder are to have.

    Raises:
        UserError: an unknown model, method or field, a number that is not allowed, an input that cannot be made, or a
            method that was named and cannot run on the model.
    """
    chosen, kept = limits.check(
        model,
        tokens,
        methods=methods,
        keeps=keeps,
        random_weights=random_weights,
        layers=layers,
        repeats=repeats,
        decoded=decoded,
    )
    config = shapes.config_of(model) if random_weights else _config(model)
    whole = _depths(config)
    if layers is not None:
        shapes.cut_layers(config, layers)
    given = make(config, tokens, media, _least_pixels(model))
    found = variants(chosen, kept)
    if methods:  # of all that there are, those that cannot run on this model have a dash in the table
        bare = shapes.build(config, "meta", None)
        for method in chosen:
            method.check(bare)
    return Request(model, random_weights, config, tokens, given, tuple(found), repeats, decoded, whole, tuple(words))


def _config(name: str) -> Any:
    """The config of a model whose checkpoint is on this machine."""
    from transformers import AutoConfig

    from harness.models import checkpoint_folder, model_info
    from model_wrappers.vila.hub import hub_config
    from model_wrappers.vila.layout import is_hub_layout

    folder = checkpoint_folder(model_info(name))
    if folder is None:
        raise UserError(f"the checkpoint of {name} is not on this machine; --random-weights measures without it")
    return hub_config(folder) if is_hub_layout(folder) else AutoConfig.from_pretrained(folder)


def _least_pixels(name: str) -> int:
    """Of a video's frame, as the model's own entry has it, which is what experiments show; 0 where it says nothing."""
    from harness.models import model_info, model_names

    return int(model_info(name).defaults.get("min_pixels", 0)) if name in model_names() else 0


def _depths(config: Any) -> tuple[int, int]:
    vision = config.vision_config
    return config.get_text_config().num_hidden_layers, getattr(vision, "depth", None) or vision.num_hidden_layers
