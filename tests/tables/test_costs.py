"""Tables 7 and 8: FLOPs at the paper's inputs from what the layers held, and what was measured, beside the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import costs, flops
from harness.costs import Prices
from harness.experiments import Row, load
from harness.statistics import Cell
from harness.store import Answer
from harness.tables import RowResult, build, from_csv, to_csv
from harness.tables.render import to_latex, to_markdown
from harness.tables.rows import LOSS, Costs
from model_wrappers.registry import method
from model_wrappers.shape import PromptSize

LLAVA, QWEN, VILA = "llava-onevision-qwen2-7b-ov-hf", "Qwen2-VL-7B-Instruct", "Llama-3-VILA1.5-8b"


def answers(visual: int, held: list[int]) -> list[Answer]:
    return [Answer(0, "A", visual=visual, kept=held[-1], kv_visual=held)] * 2


@pytest.mark.parametrize(
    ("table", "model", "row", "full", "printed"),
    [
        ("table7", LLAVA, Row(method="vanilla"), 28, 12.9),
        ("table7", LLAVA, Row(method="fastv", fields={"layer": 4}, keep=[0.25]), 3, 4.2),
        ("table7", LLAVA, Row(method="fastv", fields={"layer": 2}, keep=[0.25]), 1, 3.5),
        ("table7", LLAVA, Row(method="cnn", keep=[0.25]), 0, 3.1),
        ("table7", QWEN, Row(method="cnn", keep=[0.25]), 0, 2.4),
        ("table8", QWEN, Row(method="vanilla"), 28, 48.4),
        ("table8", QWEN, Row(method="fastv", fields={"layer": 4}, keep=[0.25]), 3, 14.9),
        ("table8", QWEN, Row(method="cnn", keep=[0.25]), 0, 10.9),
        ("table8", VILA, Row(method="cnn", keep=[0.25]), 0, 6.3),
    ],
)
def test_flops_are_the_papers(table: str, model: str, row: Row, full: int, printed: float, tmp_path: Path) -> None:
    """From answers to prompts of 1000 tokens: what the layers held is taken to the paper's input."""
    decoder = flops.shape_of(model).decoder
    layers = decoder.layers
    held = [1000] * full + [int(1000 * row.keep[0])] * (layers - full)
    experiment = load(table, "paper")
    found = Prices(experiment, tmp_path).of(model, row, row.keep[0], answers(1000, held))
    assert found is not None and found.tflops == pytest.approx(printed, abs=0.051)
    assert found.prefill_seconds is None
    tokens = experiment.costs_at[model] * (full + row.keep[0] * (layers - full))  # of all layers together
    assert found.kv_bytes == pytest.approx(2 * tokens * decoder.kv_heads * decoder.head_dim * 2, abs=1)
    wider = Prices(experiment.model_copy(update={"dtype": "float32"}), tmp_path)
    again = wider.of(model, row, row.keep[0], answers(1000, held))
    assert again is not None and again.kv_bytes == pytest.approx(2 * found.kv_bytes, abs=1)


def test_kv_is_counted_for_every_method_that_answered(tmp_path: Path) -> None:
    """As `retain flops` counts it from the plan; also where the paper's FLOPs have no term for the method."""
    experiment = load("table8")
    [model] = [model for model in experiment.models if "qwen" in model]
    shape = flops.shape_of(model)
    for row in experiment.rows:
        counted = flops.count(shape, method(row.method, **row.fields), row.keep[0], PromptSize(144, pictures=4))
        given = answers(144, list(counted.held))
        for answer in given:
            answer.worked = list(counted.worked) if counted.worked != counted.held else None
        found = Prices(experiment, tmp_path).of(model, row, row.keep[0], given)
        assert found is not None and found.kv_bytes == counted.kv_bytes > 0
        assert (found.tflops is None) == (counted.paper is None) == (row.method == "relevance")
        assert found.tflops is None or found.tflops == pytest.approx((counted.paper or 0) / 1e12)
        assert (given[0].worked is None) == (row.method != "prunevid"), "it alone works on more than it holds"
    notes = Prices(experiment, tmp_path).notes()
    assert "of the choosing only the compressor's is counted" in notes[0]
    assert "as the checkpoint stores them" in notes[1] and f"{model} {8 * shape.number_bytes}" in notes[1]


def measurement(**changes: Any) -> dict[str, Any]:
    machine = {"cpu": "A CPU", "cores": 2, "torch_threads": 1, "versions": {"torch": "2", "transformers": "5"}}
    seconds = {"vision": 9.0, "scoring": 0.25, "prefill": 0.5, "decode": 9.0}
    worked = {"visual_tokens": 1302, "visual_tokens_by_layer": [1302] * 3 + [326] * 25}
    same = {"seconds": seconds, "kv_bytes": 3 << 20, "attention": "sdpa", **worked}
    whole = {"visual_tokens_by_layer": [1302] * 28, "kv_bytes": 4 << 20}
    variants = [
        {"method": "vanilla", "fields": {}, "keep": 1.0, **same, **whole},
        {"method": "fastv", "fields": {"layer": 4}, "keep": 0.25, **same},
        {"method": "fastv", "fields": {"layer": 4}, "keep": 0.25, **same, "attention": "eager", "kv_bytes": 1},
        {"method": "cnn", "fields": {"compressor": None}, "keep": 0.25, "attention": "sdpa", "lacking": "no"},
    ]
    entry = {
        "model": QWEN,
        "input": {"asked": 1302, "media": "image"},
        "layers": {"language_model": 28, "of": 28},
        "machine": machine,
    }
    return {**entry, "device": "CPU", "dtype": "float32", "attention": "sdpa", "variants": variants, **changes}


def prices(store: Path, entry: dict[str, Any]) -> Prices:
    (store / costs.FILE).write_text(json.dumps({"measurements": [entry]}))
    return Prices(load("table7", "paper"), store)


def test_what_was_measured_of_the_same_method_is_joined(tmp_path: Path) -> None:
    found = prices(tmp_path, measurement())
    fastv = Row(method="fastv", fields={"layer": 4}, keep=[0.25])
    given = answers(1000, [1000] * 3 + [250] * 25)
    of_fastv = found.of(QWEN, fastv, 0.25, given)
    assert of_fastv is not None and of_fastv.prefill_seconds == 0.75
    by_default = found.of(QWEN, Row(method="fastv", keep=[0.25]), 0.25, given)  # layer 4 is its default
    assert by_default == of_fastv
    for model, row, keep in (
        (QWEN, Row(method="fastv", fields={"layer": 2}, keep=[0.25]), 0.25),
        (QWEN, fastv, 0.5),
        (QWEN, Row(method="cnn", keep=[0.25]), 0.25),
        (LLAVA, fastv, 0.25),
    ):
        other = found.of(model, row, keep, given)
        assert other is not None and other.prefill_seconds is None
    assert "Measured on A CPU, 1 of 2 cores; float32" in found.notes()[2]


@pytest.mark.parametrize(("held", "near"), [(250, True), (268, True), (229, True), (280, False), (220, False)])
def test_what_was_measured_at_another_budget_is_not_joined(held: int, near: bool, tmp_path: Path) -> None:
    """FastV's row worked on 33% of its tokens where 25.0% stay, as it did when it was measured."""
    found = prices(tmp_path, measurement())
    fastv = Row(method="fastv", fields={"layer": 4}, keep=[0.25])
    given = found.of(QWEN, fastv, 0.25, answers(1000, [1000] * 3 + [held] * 25))
    assert given is not None and given.prefill_seconds == (0.75 if near else None)
    notes = found.notes()[3:]
    assert not notes if near else notes[0].startswith("- under Prefill: measured at another budget")
    assert near or notes[0].endswith(f"{QWEN} FastV at 25%: 33.1%, here {100 * (3 + 25 * held / 1000) / 28:.1f}%.")


def test_a_prefill_in_other_numbers_than_kv_is_counted_in_says_so(tmp_path: Path) -> None:
    said = f"It ran in numbers of another size than KV is counted in: {QWEN} in float32."
    assert flops.shape_of(QWEN).number_bytes == 2 and said in prices(tmp_path, measurement()).notes()[2]
    assert "another size" not in prices(tmp_path, measurement(dtype="bfloat16")).notes()[2]
    wide = Prices(load("table7", "paper").model_copy(update={"dtype": "float32"}), tmp_path)
    assert f"{QWEN} in bfloat16." in wide.notes()[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"asked": 1300, "media": "image"}},
        {"input": {"asked": 1302, "media": "video"}},
        {"layers": {"language_model": 4, "of": 28}},
        {"model": "micro-qwen2-vl"},
    ],
)
def test_other_inputs_and_cut_models_are_not(changes: dict[str, Any], tmp_path: Path) -> None:
    found = prices(tmp_path, measurement(**changes))
    given = found.of(QWEN, Row(method="vanilla"), 1.0, answers(10, [10] * 28))
    assert given is not None and given.prefill_seconds is None and "not measured" in found.notes()[2]


def test_a_table_that_asks_for_no_costs_has_none(tmp_path: Path) -> None:
    found = Prices(load("table3"), tmp_path)
    assert found.of("micro-qwen2-vl", Row(method="vanilla"), 1.0, answers(10, [10] * 6)) is None
    assert found.notes() == []


def test_costs_are_columns_and_come_back_from_a_csv() -> None:
    cells = {"MMStar": Cell(40.0, 10, 10, "s")}
    rows = [
        RowResult("m", "vanilla", "", 1.0, cells, costs=Costs(12.9, 0.1234, 4 << 20)),
        RowResult("m", "relevance", "", 0.25, cells, costs=Costs()),
    ]
    table = build(rows, ["MMStar"])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_markdown(table).splitlines()]
    head, _, vanilla, relevance = [line for line in lines if line]
    assert head[-3:] == ["TFLOPs (paper)", "Prefill (ms)", "KV (MiB)"]
    assert (vanilla[-3:], relevance[-3:]) == (["12.9", "123", "4"], ["-", "-", "-"])
    again = from_csv(to_csv(table))
    assert again.benchmarks == ("MMStar",)
    assert again.rows[0].costs == Costs(12.9, pytest.approx(0.1234), 4 << 20)
    assert again.rows[1].costs == Costs()
    assert from_csv(to_csv(build(rows[:0], ["MMStar"]))).rows == ()


def test_a_prefill_that_takes_longer_than_vanilla_is_marked() -> None:
    cells = {"MMStar": Cell(40.0, 10, 10, "s")}

    def row(model: str, method: str, keep: float, seconds: float | None) -> RowResult:
        return RowResult(model, method, "", keep, cells, costs=Costs(1.0, seconds, 1 << 20))

    rows = [row("m", "vanilla", 1.0, 0.1), row("m", "cnn", 0.5, 0.1), row("m", "relevance", 0.5, 0.1234)]
    rows += [row("n", "vanilla", 1.0, 0.2), row("n", "relevance", 0.5, 0.1234), row("n", "random", 0.5, None)]
    rows += [row("o", "vanilla", 1.0, None), row("o", "relevance", 0.5, 9.0)]
    table = build(rows, ["MMStar"])
    body = to_markdown(table).splitlines()
    shown = [line.split("|")[-3].strip() for line in body if line.startswith("|")][2:]
    assert shown == ["100", "100", f"123 {LOSS}", "200", "123", "-", "-", "9e+03"]
    [note] = [note for note in table.notes if LOSS in note]
    assert note.startswith(f"{LOSS}: time is lost") and LOSS not in to_csv(table)
    assert r"123 $\bigtriangledown$" in to_latex(table)
    gains = build(rows[:2], ["MMStar"])
    assert LOSS not in to_markdown(gains) and not any(LOSS in note for note in gains.notes)
