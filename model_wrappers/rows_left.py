"""Which rows of each prompt are left between decoder layers, and where in the batch of a layer they stand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model_wrappers.methods.base import Cut
from model_wrappers.positions import left_pad
from model_wrappers.prompt import VisualPrompt
from model_wrappers.selection import rises


class RowsLeft:
    """The rows of a batch of prompts, from cut to cut.

    Args:
        rows: of each prompt [L'] long: which of its rows enter the first layer.
        real: [B, L'] bool, False where that batch is padded; None where nothing is.
    """

    def __init__(self, prompts: Sequence[VisualPrompt], rows: Sequence[Tensor], real: Tensor | None) -> None:
        self.prompts = prompts
        self.rows = list(rows)
        self._columns = [
            torch.arange(len(own), device=own.device) if real is None else real[number].nonzero().squeeze(1)
            for number, own in enumerate(self.rows)
        ]
        self._entry = self.places()

    def lay_out(self, states: list[Tensor], rows: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Behind a cut only `rows` are left, and `states` [L', d] of each prompt: the batch of them, and its `real`."""
        padded, real = left_pad(states)
        width = padded.shape[1]
        self.rows = rows
        self._columns = [torch.arange(width - len(own), width, device=own.device) for own in rows]
        return padded, real

    def tokens(self, number: int) -> Tensor:
        """[n] long: which of a prompt's visual tokens are left, in the order of its rows."""
        prompt, rows = self.prompts[number], self.rows[number]
        return (prompt.visual.cumsum(0) - 1)[rows[prompt.visual[rows]]]

    def of(self, states: Tensor, number: int) -> Tensor:
        """[L', ...]: one prompt's rows of what a layer works on, without padding."""
        own = states[number if states.shape[0] > 1 else 0]
        columns = self._columns[number].to(own.device)
        return own if len(columns) == own.shape[0] else own[columns]

    def places(self) -> list[Tensor]:
        """Of each prompt [L] long: the column of each of its rows that is left in the batch that a layer works on."""
        found = []
        for prompt, rows, columns in zip(self.prompts, self.rows, self._columns, strict=True):
            found.append(torch.zeros_like(prompt.input_ids))
            found[-1][rows] = columns
        return found

    def from_entry(self, part: Tensor) -> Tensor:
        """[B, L', ...] of the rows left, from a table of the batch that entered the first layer."""
        return left_pad(
            [
                part[number if part.shape[0] > 1 else 0, places[rows].to(part.device)]
                for number, (places, rows) in enumerate(zip(self._entry, self.rows, strict=True))
            ]
        )[0]


def apply(cut: Cut, hidden: Tensor, rows: Tensor, visual: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """What a cut leaves of one prompt: its states [L', d], and which of the prompt's rows [L'] they are.

    Args:
        hidden, rows, visual: before the cut, [L, d], [L] long and [L] bool.
        name: of the method, for its mistakes.
    """
    places = visual.nonzero().squeeze(1)
    last, kept = len(places) - 1, cut.kept.to(places.device)
    if bool(visual[-1]) and int(kept[-1]) != last:  # the last row predicts the answer's first token: it is never cut
        kept = torch.cat((kept[:-1], kept.new_tensor([last])))
    if not rises(kept, last + 1):
        raise ValueError(f"{name} was to give sorted indices below {last + 1}, gave {kept}")
    stay = ~visual
    stay[places[kept]] = True
    index = stay.nonzero().squeeze(1)
    if cut.merged is None or cut.places is None:
        return hidden[index.to(hidden.device)], rows[index]
    # Behind the last visual token kept, but never at the prompt's very end.
    at = min(int((index <= places[kept[-1]]).sum()), len(index) - 1)
    stand = places[cut.places.to(places.device)]
    index = torch.cat((index[:at], stand, index[at:]))
    states = hidden[index.to(hidden.device)]
    states[at : at + len(stand)] = cut.merged.to(states)
    return states, rows[index]
