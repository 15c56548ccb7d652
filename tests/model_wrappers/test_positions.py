"""positions="renumber": gaps are closed, and decoding goes on after the cut length."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_wrappers import UserError, compress, encode, generate
from model_wrappers.methods.base import LayerPruner
from model_wrappers.positions import renumbered
from model_wrappers.registry import format_spec, method, parse
from model_wrappers.together import generate_together
from tests.model_wrappers.conftest import IMAGE, MIXED, TEXT, VIDEO, answer, new_tokens
from tests.model_wrappers.reference import counted_anew, masked_logits
from tests.model_wrappers.table import ONE_FAMILY

RENUMBERING = {"positions": "renumber"}
CUTTERS = pytest.mark.parametrize(("name", "first_cut"), [("uniform", 0), ("fastv", 3)])


@CUTTERS
def test_equals_the_masked_model_counted_anew(model: Any, ask: Any, name: str, first_cut: int) -> None:
    """In a padded batch too; and the answers differ from those with own positions."""
    batch = (MIXED, TEXT, VIDEO)
    inputs = ask(*batch)
    with compress(model, name, keep=0.3, **RENUMBERING) as compression:
        output = answer(model, inputs)
    with compress(model, name, keep=0.3):
        own = answer(model, inputs)
    assert not torch.equal(torch.stack(own.logits), torch.stack(output.logits))
    for index, parts in enumerate(batch):
        (prompt,) = encode(model, ask(parts))
        cuts = {first_cut: compression.last[index].kept}
        expected = masked_logits(model, prompt, cuts, new_tokens(output, inputs)[index], "renumber")
        torch.testing.assert_close(torch.stack(output.logits)[:, index], expected, atol=5e-5, rtol=1e-4)


def test_each_of_several_cuts_counts_anew(model: Any, ask: Any) -> None:
    """Layers before a cut go on with the numbering that they began with, at each step."""

    class Narrowing(LayerPruner):
        def plan(self, n_layers: int, keep: float) -> dict[int, float]:
            return {1: 0.6, 2: 0.4, 4: keep}

        def score(self, layer: Any, hidden: Any, position_embeddings: Any, visual: Any) -> torch.Tensor:
            return torch.arange(int(visual.sum())).remainder(3).float()

    def keep_best(kept: list[int], count: int) -> list[int]:
        order = sorted(range(len(kept)), key=lambda place: (-(place % 3), place))
        return [kept[place] for place in sorted(order[:count])]

    inputs = ask(MIXED)
    with compress(model, Narrowing(positions="renumber"), keep=0.2) as compression:
        output = answer(model, inputs)
    (record,) = compression.last
    (prompt,) = encode(model, inputs)
    kept, cuts = list(range(record.visual)), {}
    for layer in (1, 2, 4):
        kept = keep_best(kept, record.kv_visual[layer])
        cuts[layer] = torch.tensor(kept)
    assert record.kept.tolist() == kept
    expected = masked_logits(model, prompt, cuts, new_tokens(output, inputs)[0], "renumber")
    torch.testing.assert_close(torch.cat(output.logits), expected, atol=5e-5, rtol=1e-4)


@CUTTERS
def test_the_sweeps_path_gives_the_same(model: Any, ask: Any, name: str, first_cut: int) -> None:
    inputs = ask(MIXED)
    (prompt,) = encode(model, inputs)
    made = method(name, **RENUMBERING)
    with compress(model, made, keep=0.3) as compression:
        output = model.generate(**inputs, max_new_tokens=5)
    expected = new_tokens_of(output, inputs)
    tokens, record = generate(model, prompt, made, 0.3, max_new_tokens=5)
    assert tokens.tolist() == expected and record.kept.tolist() == compression.last[0].kept.tolist()
    requests = [(made, 0.3), (method(name), 0.3), (method("random"), 0.3)]
    together = {place: tokens for place, tokens, _, _ in generate_together(model, prompt, requests, max_new_tokens=5)}
    assert together[0].tolist() == expected


def new_tokens_of(output: torch.Tensor, inputs: Any) -> list[int]:
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def test_the_rule(model: Any, ask: Any) -> None:
    """One-dimensional positions become 0 .. L'-1; nothing cut, nothing changed."""
    (prompt,) = encode(model, ask(MIXED))
    everything = torch.arange(len(prompt.input_ids))
    assert torch.equal(renumbered(prompt, everything), prompt.position_ids)
    kept = torch.arange(prompt.n_visual)[2::5]
    rows = prompt.rows_kept(kept)
    found = renumbered(prompt, rows)
    assert torch.equal(found, counted_anew(prompt, kept.tolist())[0][:, rows])
    if found.shape[0] == 1:
        assert found.tolist() == [list(range(len(rows)))]


@ONE_FAMILY
def test_a_grid_closes_by_hand(model: Any, ask: Any) -> None:
    """Of 4 x 5 tokens those at (row, column) (0, 1), (2, 1) and (2, 4) are left: two rows, two columns."""
    (prompt,) = encode(model, ask(IMAGE))
    start = int(prompt.visual_rows[0])
    found = renumbered(prompt, prompt.rows_kept(torch.tensor([1, 11, 14])))
    assert (found[:, start : start + 3] - start).tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert found[:, start + 3].tolist() == [start + 2] * 3, "text goes on after the largest number"


def test_a_spec_says_it() -> None:
    spec = "m+uniform:positions=renumber@0.5"
    assert parse(spec).method == method("uniform", **RENUMBERING) != method("uniform")
    assert format_spec("m", method("uniform", **RENUMBERING), 0.5) == spec
    assert format_spec("m", method("uniform"), 0.5) == "m+uniform@0.5"
    for wrong in ("m+uniform:positions=new@0.5", "m+vanilla:positions=renumber@1"):
        with pytest.raises(UserError, match="positions="):
            parse(wrong)
