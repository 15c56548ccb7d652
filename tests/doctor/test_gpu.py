"""Cards that hold a profile's models and cards that do not, at the largest prompts that its settings allow."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from harness.doctor import gpu
from harness.doctor.check import Check
from harness.experiments import Row, load

LLAVA, QWEN, VILA = "llava-onevision-qwen2-7b-ov-hf", "Qwen2-VL-7B-Instruct", "Llama-3-VILA1.5-8b"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has torch answer as on a machine with cards of so many GB."""

    def plug(*gigabytes: int, held: int = 0) -> None:
        found = [SimpleNamespace(name=f"Card {size}", total_memory=size * 10**9) for size in gigabytes]
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found[device])
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device: (found[torch.device(device).index].total_memory - held, 0)
        )

    return plug


def look(table: str, profile: str = "paper") -> dict[str, Check]:
    return {check.name: check for check in gpu.checks([load(table, profile)], None)}


def test_a_small_and_a_large_card(cards: Callable[..., None]) -> None:
    for sizes, state in (((8,), "missing"), ((80,), "ok"), ((8, 80), "ok")):
        cards(*sizes)
        found = look("table3")
        assert {found[model].state for model in (LLAVA, QWEN, VILA)} == {state}
        assert (found["devices"].state, found["estimate"].state) == ("ok", "ok")
        told = ", ".join(f"Card {size}, {size * 10**9 / 2**30:.1f} GiB" for size in sizes)
        assert found["devices"].said == told and f"the GPU has {told.rpartition(', ')[2]} free" in found[QWEN].said


def test_a_card_that_others_use(cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    cards(80, held=70 * 10**9)
    assert look("table3")[QWEN].state == "missing" and look("table3")[QWEN].said.endswith("the GPU has 9.3 GiB free")

    def full(device: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    assert look("table3")[QWEN].said.endswith("the GPU has 0 bytes free")


def test_without_a_card_only_small_models_do(cards: Callable[..., None]) -> None:
    cards()
    found = look("table3")
    assert (found["devices"].state, found["devices"].said) == (
        "missing",
        "there is none, and models of billions need one",
    )
    found = look("table3", "micro")
    assert {check.state for check in found.values()} == {"ok"} and "estimate" not in found


@pytest.mark.parametrize(
    ("table", "model", "tokens"),
    [
        ("table3", QWEN, 1296),  # its settings fix them
        ("table3", LLAVA, 1569),
        ("table5", QWEN, 6422528 // 28**2),
        # 5 x 2 tiles of 27 x 27, a newline a row, and the whole image once more: anyres_max_9 shrinks only what is more
        # than a tenth longer than nine tiles.
        ("table5", LLAVA, 135 * 54 + 135 + 27 * 27),
        ("table6", VILA, 16 * 196),
    ],
)
def test_the_largest_prompt_is_what_the_settings_allow(
    cards: Callable[..., None], table: str, model: str, tokens: int
) -> None:
    cards(80)
    assert f"GiB at up to {tokens} visual tokens, " in look(table)[model].said


def test_gradients_of_every_layer_take_more(cards: Callable[..., None]) -> None:
    """`relevance` keeps the states of all layers: a 16 GB card has no room for them, whatever the weights are."""
    cards(80)
    chosen = load("table3", "paper")
    rows = [*chosen.rows, Row(method="relevance", keep=[0.5])]
    needs = []
    for each in (chosen, chosen.model_copy(update={"rows": rows})):
        (said,) = [check.said for check in gpu.checks([each], None) if check.name == QWEN]
        (need,), (weights,) = (re.findall(rf"([\d.]+) GiB {words}", said) for words in ("at up", "of it"))
        assert 14 < float(weights) < 16, "7.6 billion numbers of 2 bytes"
        needs.append(float(need))
    # 27 layers more of 1,424 tokens x (6 x 3,584 + 3 x 18,944) numbers.
    assert needs[1] - needs[0] == pytest.approx(27 * 1424 * (6 * 3584 + 3 * 18944) * 2 / 2**30, abs=0.11)
