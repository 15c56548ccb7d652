"""Cutting between decoder layers: the hooks behind every LayerPruner.

At prefill the layer before a cut is looked at (its input, not its attention), and the layer after it gets fewer rows.
From there on each layer has its own KV length, so each needs its own mask, at prefill and on every decode step. Where a
method trims, each cut takes the rows out of the caches of all layers before it too, which then are of one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import create_causal_mask

from model_wrappers.anatomy import language_model
from model_wrappers.errors import UserError
from model_wrappers.methods.base import LayerPruner, Merger, Method, Passage
from model_wrappers.positions import left_pad, renumbered
from model_wrappers.prompt import VisualPrompt
from model_wrappers.rows_left import RowsLeft, apply
from model_wrappers.selection import Choice, Record, check_media, stopwatch


class LayerCut:
    """One method's cuts in one model: attach(), begin() at each prefill, records() after it, detach()."""

    def __init__(self, model: Any, method: LayerPruner, keep: float) -> None:
        self.model, self.decoder = model, language_model(model)
        self.method, self.keep = method, keep
        self.n_layers = len(self.decoder.layers)
        self.plan = dict(sorted(method.plan(self.n_layers, keep).items()))
        if not self.plan or min(self.plan) < 1 or max(self.plan) >= self.n_layers:
            raise ValueError(f"{type(method).__name__} planned cuts at {sorted(self.plan)} of {self.n_layers} layers")
        self._renumbers = method.positions == "renumber" and not method.trims
        self._handles: list[RemovableHandle] = []
        self._prompts: list[VisualPrompt] = []

    @classmethod
    def of(cls, model: Any, method: Method, keep: float) -> LayerCut | None:
        """What `method` cuts between the layers of `model`; None where it cuts nothing there."""
        if not isinstance(method, LayerPruner) or keep == 1:
            return None
        if isinstance(method, Merger) and not method.plan(len(language_model(model).layers), keep):
            return None
        return cls(model, method, keep)

    @property
    def trimmed(self) -> tuple[int, Tensor | None] | None:
        """Rows that each layer's cache held after the prefill, padding included, and which are none [B, rows]; None
        where the method leaves the caches as they are.
        """
        last = max(self.plan)
        return (self._widths[last], self._real[last]) if self.method.trims else None

    def attach(self) -> None:
        """Hooks the layers."""
        for index in range(min(self.plan) - 1, self.n_layers):
            layer = self.decoder.layers[index]
            # In this order: a layer that both works on fewer rows and is looked at for the next cut sees the fewer
            # rows.
            if index >= min(self.plan):
                self._handles.append(layer.register_forward_pre_hook(self._shorten(index), with_kwargs=True))
            if index + 1 in self.plan:
                self._handles.append(layer.register_forward_pre_hook(self._look(index), with_kwargs=True))

    def detach(self) -> None:
        """Takes every hook away."""
        while self._handles:
            self._handles.pop().remove()

    def begin(self, prompts: list[VisualPrompt], real: Tensor | None, choices: Sequence[Choice] | None = None) -> None:
        """Says which prompts the coming prefill holds.

        Args:
            real: [B, L] bool, False where the batch that enters the first layer is padded; None where nothing is.
            choices: what was left of each prompt at the language model's input; None: everything.

        Raises:
            UserError: the method is not defined for what a prompt shows.
        """
        for prompt in prompts:
            check_media(self.model, self.method, prompt)
        self._prompts = prompts
        device = prompts[0].visual.device
        if choices is None:
            choices = [Choice(torch.arange(prompt.n_visual, device=device), 0.0) for prompt in prompts]
        rows = [prompt.rows_kept(choice.kept) for prompt, choice in zip(prompts, choices, strict=True)]
        self._left = RowsLeft(prompts, rows, real)
        self._counts = [[len(choice.kept)] * min(self.plan) for choice in choices]
        self._seconds = [choice.seconds for choice in choices]
        self._entered: tuple[Any, Tensor, tuple[Tensor, ...]] | None = None
        self._real: dict[int, Tensor | None] = {}
        self._masks: dict[tuple[int, int, int], Any] = {}
        self._embeddings: tuple[Tensor, ...] = ()
        self._next: dict[int, Tensor] = {}  # by cut [B]: position after the last row, where each cut renumbers
        self._steps: dict[tuple[int, int, int], tuple[Tensor, ...]] = {}
        self._widths: dict[int, int] = {}  # by cut: rows that it left, padding included

    def records(self) -> list[Record]:
        """One a prompt of the last prefill."""
        records = []
        for row, prompt in enumerate(self._prompts):
            kept = self._left.tokens(row).sort().values.cpu()
            worked = list(self._counts[row])
            held = worked[-1:] * self.n_layers if self.method.trims else worked
            more = worked if worked != held else None
            records.append(Record(prompt.n_visual, self.keep, kept, held, self._seconds[row], worked=more))
        return records

    def _look(self, index: int) -> Any:
        def hook(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not _seen(kwargs.get("past_key_values"), index):
                self._entered = (layer, args[0], kwargs["position_embeddings"])

        return hook

    def _shorten(self, index: int) -> Any:
        def hook(
            layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            hidden, cache = args[0], kwargs.get("past_key_values")
            seen = _seen(cache, index)
            if not seen:
                if index in self.plan:  # every layer is handed the rotary tables of the first
                    before = self._left.places()
                    hidden = self._cut(index, layer, hidden, kwargs["position_embeddings"])
                    if self.method.trims and cache is not None:
                        self._trim(cache.layers[:index], before)
                kwargs = {**kwargs, "position_embeddings": self._embeddings}
            elif self._renumbers:
                kwargs = {**kwargs, "position_embeddings": self._step_embeddings(index, hidden, seen)}
            real = self._real[self._laid_out_by(index, seen)]
            if real is not None:
                real = torch.nn.functional.pad(real, (0, seen + hidden.shape[1] - real.shape[1]), value=True)
            kwargs = {**kwargs, "attention_mask": self._mask(index, hidden, real, cache), "position_ids": None}
            return (hidden, *args[1:]), kwargs

        return hook

    def _cut(self, index: int, layer: Any, hidden: Tensor, uncut: tuple[Tensor, ...]) -> Tensor:
        """What is left of `hidden` at the input of `layer`; `uncut` are the rotary tables of the first layer."""
        assert self._entered is not None
        before, entered, tables = self._entered
        self._entered = None
        states, left = [], []
        for row, prompt in enumerate(self._prompts):
            own = self._left.of(hidden, row)
            rows = self._left.rows[row]
            if prompt.n_visual:
                passage = Passage(
                    prompt,
                    self._left.tokens(row),
                    before,
                    self._left.of(entered, row),
                    layer,
                    own,
                    tuple(self._left.of(part, row) for part in tables),
                    prompt.visual[rows],
                    self.decoder.norm,
                )
                with stopwatch(hidden.device) as watch:
                    cut = self.method.cut(passage, self.plan[index])
                self._seconds[row] += watch.seconds
                own, rows = apply(cut, own, rows, passage.visual, type(self.method).__name__)
            states.append(own)
            left.append(rows)
            layers = min((later for later in self.plan if later > index), default=self.n_layers) - index
            self._counts[row] += [int(prompt.visual[rows].sum())] * layers
        padded, self._real[index] = self._left.lay_out(states, left)
        self._masks.clear()
        self._widths[index] = padded.shape[1]
        if self._renumbers:
            self._embeddings = self._renumber(index, hidden)
        else:
            self._embeddings = tuple(self._left.from_entry(part) for part in uncut)
        return padded

    def _trim(self, layers: Sequence[Any], before: list[Tensor]) -> None:
        """Leaves in the caches of these layers the rows that are left, laid out as the batch of the layer behind.

        before: `RowsLeft.places` before the cut.
        """
        columns, _ = left_pad([places[rows] for places, rows in zip(before, self._left.rows, strict=True)])
        for layer in layers:
            if type(layer) is not DynamicLayer:
                raise UserError(
                    f"{type(self.method).__name__} cuts the KV cache: it must be dynamic, and this has a "
                    f"{type(layer).__name__}"
                )
            for name in ("keys", "values"):
                part = getattr(layer, name)  # [B, heads, L, head_dim]
                at = columns.to(part.device)[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3])
                setattr(layer, name, part.gather(2, at))

    def _renumber(self, index: int, hidden: Tensor) -> tuple[Tensor, ...]:
        """Rotary tables of the rows that the cut at `index` leaves, counted anew."""
        closed = [renumbered(prompt, rows) for prompt, rows in zip(self._prompts, self._left.rows, strict=True)]
        self._next[index] = torch.stack([part[:, -1].max() + 1 for part in closed])
        return self._rotary(hidden, left_pad([part.T for part in closed])[0].permute(2, 0, 1))

    def _step_embeddings(self, index: int, hidden: Tensor, seen: int) -> tuple[Tensor, ...]:
        """Rotary tables of new rows in the layers after a cut that renumbered: they count on from its own length."""
        cut = self._cut_before(index)
        key = (cut, seen, hidden.shape[1])
        if key not in self._steps:
            step = torch.arange(hidden.shape[1], device=self._next[cut].device) + seen - self._widths[cut]
            positions = self._next[cut][:, None] + step
            dims = self._prompts[0].position_ids.shape[0]
            self._steps = {key: self._rotary(hidden, positions.expand(dims, -1, -1))}
        return self._steps[key]

    def _rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """(cos, sin), each [B, L', head_dim], of positions [3 or 1, B, L']."""
        positions = positions.to(hidden.device)
        return self.decoder.rotary_emb(hidden, positions if positions.shape[0] > 1 else positions[0])

    def _cut_before(self, index: int) -> int:
        """The last cut that layer `index` comes after."""
        return max(cut for cut in self.plan if cut <= index)

    def _laid_out_by(self, index: int, seen: int) -> int:
        """The cut that says which rows, and what padding, a layer works on: in a step those that its cache holds."""
        return max(self.plan) if self.method.trims and seen else self._cut_before(index)

    def _mask(self, index: int, hidden: Tensor, real: Tensor | None, cache: Any) -> Any:
        """The mask for this layer's own KV length, in the form that the attention kernel in use takes."""
        if real is None and hidden.shape[1] == 1 and not getattr(cache, "is_compileable", False):
            return None  # one row that looks at everything: no kernel needs a mask for that
        # Layers between two cuts share a mask; the key tells steps apart by the length seen so far.
        seen = _seen(cache, index)
        key = (self._laid_out_by(index, seen), seen, hidden.shape[1])
        if key not in self._masks:
            self._masks = {
                key: create_causal_mask(
                    config=self.decoder.config,
                    inputs_embeds=hidden,
                    attention_mask=real,
                    past_key_values=cache,
                    layer_idx=index,
                )
            }
        return self._masks[key]


def _seen(cache: Any, index: int) -> int:
    """Rows in the KV cache of one layer; 0 at prefill."""
    return int(cache.get_seq_length(index)) if cache is not None else 0
