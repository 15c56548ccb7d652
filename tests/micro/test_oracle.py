"""The bounds: evidence first, evidence last, the same draw again, and only where the evidence is known."""

from __future__ import annotations

import pytest
import torch

from harness import micro
from harness.micro.oracle import AntiOracle, Oracle
from model_wrappers.errors import UserError
from model_wrappers.prompt import VisualPrompt
from model_wrappers.registry import method
from model_wrappers.selection import budget, choose


def _prompt(evidence: torch.Tensor | None, sample_id: str = "a") -> VisualPrompt:
    length = 40
    visual = torch.ones(length, dtype=torch.bool)
    visual[:4] = visual[-4:] = False
    return VisualPrompt(
        input_ids=torch.zeros(length, dtype=torch.long),
        inputs_embeds=torch.zeros(length, 8),
        visual=visual,
        position_ids=torch.arange(length).expand(3, -1),
        next_position=length,
        grids=[(1, 4, 8)],
        sample_id=sample_id,
        evidence=evidence,
    )


def test_evidence_comes_first_and_last() -> None:
    evidence = torch.zeros(32, dtype=torch.bool)
    evidence[[3, 17, 30]] = True
    for keep in (0.1, 0.25, 0.5, 0.9):
        kept = choose(None, _prompt(evidence), Oracle(), keep).kept
        assert set(torch.where(evidence)[0].tolist()) <= set(kept.tolist()) and len(kept) == budget(keep, 32)
        kept = choose(None, _prompt(evidence), AntiOracle(), keep).kept
        assert not set(torch.where(evidence)[0].tolist()) & set(kept.tolist())
    first = choose(None, _prompt(evidence), Oracle(), 0.25).kept
    again = choose(None, _prompt(evidence), Oracle(), 0.25).kept
    other = choose(None, _prompt(evidence, "b"), Oracle(), 0.25).kept
    assert first.equal(again) and not first.equal(other)


def test_without_evidence_it_says_so() -> None:
    with pytest.raises(UserError, match="oracle needs the evidence file"):
        choose(None, _prompt(None), Oracle(), 0.5)


def test_known_by_name_after_registering_twice() -> None:
    micro.register()
    micro.register()
    assert method("oracle") == Oracle() and method("anti-oracle") == AntiOracle()
