"""How far the two forms of relevance agree on a trained micro model, as `retain bench` measures it."""

from __future__ import annotations

import copy
import statistics
from pathlib import Path

import pytest

from harness.bench import agreement
from harness.models import open_model

pytestmark = pytest.mark.long

VIDEO = Path(__file__).parents[2] / "results" / "micro" / "figures" / "inputs" / "activitynetqa000.mp4"
QUESTIONS = ("What color is the triangle?", "Is there a white star?")


@pytest.fixture(scope="module")
def found() -> list[agreement.Case]:
    full, half = (open_model("micro-llava-onevision", dtype=dtype) for dtype in ("float32", "bfloat16"))
    truth = copy.deepcopy(half.model).float()
    cases = []
    for question in QUESTIONS:
        decoded = full.decode([{"type": "video", "value": str(VIDEO)}, {"type": "text", "value": question}])
        prompt = full.encode(decoded)
        full.answer(prompt, "vanilla", 1.0)
        cases += agreement.cases(full.model, prompt, half.model, half.encode(decoded), truth)
    full.close()
    half.close()
    return cases


def test_agree_in_float32(found: list[agreement.Case]) -> None:
    assert len(found) == len(QUESTIONS) * len(agreement.OPTIONS)
    assert 0 < max(case.float32 for case in found) <= 1e-5


def test_streaming_is_no_further_from_the_truth_in_bfloat16(found: list[agreement.Case]) -> None:
    """Which of the two is nearer for a few prompts is chance, since both round the hidden states and their gradients.

    Hence the margin, which sees gross errors only. `retain bench` measures 90 cases of each micro model.
    """
    streaming, textbook = (statistics.mean(getattr(case, form) for case in found) for form in ("streaming", "textbook"))
    assert 0 < streaming <= 2 * textbook
    assert all(case.bfloat16 > case.float32 for case in found), "the models are in the dtypes that are said"


def test_report() -> None:
    cases = [agreement.Case(1e-6, 0.02, 0.01, 0.03), agreement.Case(3e-6, 0.3, 0.02, 0.04)] * 2
    measured = agreement.Agreement("micro", [*cases, cases[0]])
    assert agreement.summary(measured)["float32"] == {"worst": "3.0e-06", "median": "1.0e-06"}
    assert dict(agreement.rows([measured])) == {
        "two forms of relevance on micro, float32: worst, median": "3.0e-06, 1.0e-06 of the largest score",
        "  bfloat16": "3.0e-01, 2.0e-02 of the largest score",
        "  streaming in bfloat16 from the same weights in float32": "2.0e-02, 1.0e-02 of the largest score",
        "  textbook in bfloat16 from the same weights in float32": "4.0e-02, 3.0e-02 of the largest score",
    }
