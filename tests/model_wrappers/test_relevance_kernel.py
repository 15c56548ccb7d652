"""The Triton kernels of relevance against a literal float64 computation and against `blocks`.

Without a GPU they run in Triton's interpreter, in a child process: `kernel_cases` says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model_wrappers.relevance import blocks, carried
from tests.model_wrappers.kernel_cases import CASES, NAMES, VIEWS, Case, by, through_autograd

ROOT = Path(__file__).parents[2]
BOUNDS = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""The largest error allowed, in parts of the largest number of the true result; for the halves, one step of theirs."""


def literal(case: Case) -> dict[str, Tensor]:
    """By autograd, in float64, through full n x n attention: from R's update as eq. 1 has it, one target at a time."""
    query, key, value, grads, relevance = (tensor.double() for tensor in case.inputs())
    inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    query, key, value = inputs
    share = case.heads // case.groups
    scores = query @ key.repeat_interleave(share, dim=0).mT * case.options()["scaling"]
    distance = torch.arange(case.length)[:, None] - torch.arange(case.length)
    unseen = (distance < 0) | (distance >= (case.window or case.length))
    probabilities = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1)
    output = probabilities @ value.repeat_interleave(share, dim=0)
    below = torch.arange(case.length) < case.first_row
    found = []
    for target in range(case.targets):
        wanted = grads[target].masked_fill(below[:, None], 0.0)
        gradient, *others = torch.autograd.grad(output, [probabilities, *inputs], wanted, retain_graph=True)
        weights = probabilities.detach() * gradient
        weights = weights.clamp(min=0) if case.clamp else weights
        found.append([*others, relevance[target].masked_fill(below, 0.0) @ weights.mean(dim=0)])
    return {name: torch.stack(each) for name, each in zip(NAMES, zip(*found, strict=True), strict=True)}


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], case: Case, bound: float) -> None:
    for name in NAMES:
        if not case.with_inputs and name != "carried":
            assert found[name].numel() == 0
            continue
        assert found[name].shape == expected[name].shape, name
        assert found[name].dtype == (torch.float32 if name == "carried" else case.dtype), name
        # A row that sees one row alone has no gradient to its queries and keys; the rest is of the order of 1.
        nothing = name in ("d_query", "d_key") and 1 in (case.window, case.length)
        largest = 1.0 if nothing else expected[name].abs().max()
        assert largest > 0
        error = (found[name].double() - expected[name].double()).abs().max() / largest
        assert error <= bound, f"{name}: {error:.1e} of its largest number"


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the kernels return: `case/name`."""
    file = tmp_path_factory.mktemp("interpreted") / "found.safetensors"
    command = [sys.executable, "-m", "tests.model_wrappers.kernel_cases", str(file)]
    child = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return load_file(file)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_literal_computation_and_blocks(interpreted: dict[str, Tensor], case: Case) -> None:
    found = {name: interpreted[f"{case.name}/{name}"] for name in NAMES}
    agree(found, literal(case), case, BOUNDS[case.dtype])
    agree(found, by(blocks.backward, case), case, 3 * BOUNDS[case.dtype])


@pytest.mark.parametrize("case", [case for case in CASES if case.dtype == torch.bfloat16], ids=str)
def test_in_bfloat16_scores_and_relevance_are_float32(interpreted: dict[str, Tensor], case: Case) -> None:
    """QK^T, softmax and dP are not rounded to bfloat16: the carried row is right to float32, the gradients to bfloat16.

    The kernel rounds the factors of its last products as FlashAttention does, and so is 1.5 times as far off in the
    gradients as blocks, which rounds nothing but the result.
    """
    truth = literal(case)
    for found in (by(blocks.backward, case), {name: interpreted[f"{case.name}/{name}"] for name in NAMES}):
        for name in NAMES if case.with_inputs else ("carried",):
            error = (found[name].double() - truth[name]).square().mean() / truth[name].square().mean()
            assert error.sqrt() <= (1e-6 if name == "carried" else 3e-3), name


def test_streaming_on_the_kernel(interpreted: dict[str, Tensor]) -> None:
    found, expected = {name: interpreted[name] for name in NAMES}, through_autograd(VIEWS)
    agree(found, expected, VIEWS, BOUNDS[VIEWS.dtype])
    assert any(not torch.equal(found[name], expected[name]) for name in NAMES), "blocks was asked, not the kernel"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "case",
    [
        *CASES,
        Case("a 7B model's heads", 1500, heads=28, groups=4, dim=128, targets=3, dtype=torch.bfloat16),
        Case("a 7B model's heads in a window", 1500, heads=28, groups=4, dim=128, window=300, dtype=torch.bfloat16),
        Case("a 7B model's heads in float32", 700, heads=28, groups=4, dim=128),
    ],
    ids=str,
)
def test_on_the_gpu(case: Case) -> None:
    from model_wrappers.relevance import kernel

    assert carried._backend(case.inputs()[0].cuda()) is kernel.backward
    found = {name: tensor.cpu() for name, tensor in by(kernel.backward, case, "cuda").items()}
    agree(found, literal(case), case, BOUNDS[case.dtype])
    plain = {name: tensor.cpu() for name, tensor in by(blocks.backward, case, "cuda").items()}
    agree(found, plain, case, 3 * BOUNDS[case.dtype])
    again = by(kernel.backward, case, "cuda")
    assert all(torch.equal(found[name], again[name].cpu()) for name in NAMES), "the same input, the same bits"


# Triton compiles for a GPU that is not there: what the interpreter does not show.


@pytest.mark.parametrize(("name", "capability"), [("_sums", 80), ("_to_keys", 90), ("_to_queries", 80)])
def test_compiles_within_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capability: int
) -> None:
    """The widest heads in bfloat16 need the most; a GPU of capability 8.6 or 8.9 has 99 KiB."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model_wrappers.relevance import kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(kernel, name)
    tiles = kernel._tiles(torch.bfloat16, 128)
    options = {name: tiles.pop(name) for name in ("num_warps", "num_stages")}
    fixed = {**tiles, "CLAMP": True, "WITH_INPUTS": True}
    fixed = {name: value for name, value in fixed.items() if name in function.arg_names}
    types = {"scaling": "fp32", **dict.fromkeys(("first_row", "length", "window", "targets", "heads", "group"), "i32")}
    types |= dict.fromkeys(("sums", "deltas", "relevance", "by_head"), "*fp32") | dict.fromkeys(fixed, "constexpr")
    signature = {name: types.get(name, "*bf16") for name in function.arg_names}
    aligned = {
        (at,): [["tt.divisibility", 16]] for at, name in enumerate(function.arg_names) if signature[name][0] == "*"
    }
    source = ASTSource(function, signature, fixed, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert "mma" in compiled.asm["ptx"], "no tensor cores"
    assert compiled.metadata.shared <= 99 * 1024


# Which of the two runs.


def test_a_cpu_runs_blocks() -> None:
    assert carried._backend(torch.zeros(2, 3, 16)) is blocks.backward


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert carried._backend(SimpleNamespace(is_cuda=True)) is blocks.backward  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"dtype": torch.float64}, False),
        ({"dim": 256}, False),
        ({"capability": (7, 5)}, False),
        ({"cuda": None}, False),
        ({"starts": False}, False),
    ],
    ids=str,
)
def test_a_gpu_runs_the_kernel_where_it_can(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], expected: bool
) -> None:
    from model_wrappers.relevance import kernel

    at = {"dtype": torch.bfloat16, "dim": 128, "capability": (8, 0), "cuda": "13.0", "starts": True, **changed}
    monkeypatch.setattr(torch.version, "cuda", at["cuda"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: at["capability"])
    monkeypatch.setattr(kernel, "_triton_starts", lambda: at["starts"])
    query: Any = SimpleNamespace(is_cuda=True, device="cuda:1", dtype=at["dtype"], shape=(1, 28, 9, at["dim"]))
    assert carried._backend(query) is (kernel.backward if expected else blocks.backward)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton starts here")
def test_says_when_triton_does_not_start() -> None:
    from model_wrappers.relevance import kernel

    kernel._triton_starts.cache_clear()
    with pytest.warns(UserWarning, match="Triton does not start"):
        assert not kernel._triton_starts()
