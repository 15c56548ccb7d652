"""How far the two forms of relevance agree on a trained micro model, as `retain bench` measures it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from harness.bench import agreement
from harness.bench.wider import Wider
from harness.models import open_model

pytestmark = pytest.mark.long

VIDEO = Path(__file__).parents[2] / "results" / "micro" / "figures" / "inputs" / "activitynetqa000.mp4"
QUESTIONS = (
    "What is in the video?",  # where rounding moves either form by 2e-5 in float32
    "What color is the triangle?",
    "Is there a white star?",
)


@pytest.fixture(scope="module")
def found() -> list[agreement.Case]:
    full, half = (open_model("micro-llava-onevision", dtype=dtype) for dtype in ("float32", "bfloat16"))
    wider = Wider(full.model, half.model)
    cases: list[agreement.Case] = []
    for question in QUESTIONS:
        decoded = full.decode([{"type": "video", "value": str(VIDEO)}, {"type": "text", "value": question}])
        prompt = full.encode(decoded)
        full.answer(prompt, "vanilla", 1.0)
        cases += agreement.cases(full.model, prompt, half.model, half.encode(decoded), wider)
    full.close()
    half.close()
    return cases


def test_are_one_in_float64(found: list[agreement.Case]) -> None:
    """But for what either form sums in float32: the rows of relevance."""
    assert len(found) == len(QUESTIONS) * len(agreement.OPTIONS)
    assert 0 < max(case.float64 for case in found) <= 1e-6


def test_agree_in_float32(found: list[agreement.Case]) -> None:
    """As far as rounding lets: where the textbook form itself is 1e-5 from float64, so are they from each other."""
    assert max(case.float32 for case in found[5:10]) <= 1e-5, "of a prompt where rounding moves neither form so far"
    assert statistics.median(case.float32 for case in found) <= 1e-5
    assert max(case.float32 for case in found) <= 1e-4
    assert max(case.float32_streaming for case in found) <= 1e-4


def test_streaming_is_no_further_from_the_truth_in_bfloat16(found: list[agreement.Case]) -> None:
    """Which of the two is nearer for a few prompts is chance, since both round the hidden states and their gradients.

    Hence the margin, which sees gross errors only. `retain bench` measures 90 cases of each micro model.
    """
    streaming, textbook = (
        statistics.median(getattr(case, f"bfloat16_{form}") for case in found) for form in ("streaming", "textbook")
    )
    assert 0 < streaming <= 2 * textbook
    assert all(case.bfloat16 > case.float32 > case.float64 for case in found), "the models are in the dtypes said"


def test_report() -> None:
    cases = [agreement.Case(1e-8, 1e-6, 2e-6, 3e-6, 0.02, 0.01, 0.03)] * 2
    cases += [agreement.Case(3e-8, 3e-6, 4e-6, 5e-6, 0.3, 0.02, 0.04)]
    measured = agreement.Agreement("micro", cases)
    assert agreement.summary(measured)["float32"] == {"worst": "3.0e-06", "median": "1.0e-06"}
    assert dict(agreement.rows([measured])) == {
        "two forms of relevance on micro, float64: worst, median": "3.0e-08, 1.0e-08 of the largest score",
        "  float32": "3.0e-06, 1.0e-06 of the largest score",
        "  streaming in float32 from float64": "4.0e-06, 2.0e-06 of the largest score",
        "  textbook in float32 from float64": "5.0e-06, 3.0e-06 of the largest score",
        "  bfloat16": "3.0e-01, 2.0e-02 of the largest score",
        "  streaming in bfloat16 from the same weights in float32": "2.0e-02, 1.0e-02 of the largest score",
        "  textbook in bfloat16 from the same weights in float32": "4.0e-02, 3.0e-02 of the largest score",
    }
