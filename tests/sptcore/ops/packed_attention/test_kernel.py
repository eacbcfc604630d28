"""The kernels of packed attention: under the interpreter, compiled for a GPU that is absent, and on a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptcore.ops.packed_attention import PositionBias, packed_attention
from sptcore.ops.packed_attention.operator import attend_rows
from sptcore.ops.packing import plan_packing
from tests.sptcore.ops.test_packing import random_mask
from tests.support.interpreter import SHARED_LIMIT, build_for_sm90, compiled_kernels, run_interpreted
from tests.support.numerics import assert_rounds_like_on_average, assert_same

CASES_FILE = Path(__file__).with_name("interpreted_kernel.py")
TRITON_TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@pytest.mark.slow
@pytest.mark.parametrize("group", ["reference", "not reference"])
def test_under_the_interpreter(group):
    run_interpreted(CASES_FILE, only=group)


def test_on_a_cpu_the_kernel_is_refused_and_never_replaced(monkeypatch):
    packing = plan_packing(random_mask([5]), 7, 0)
    rows = [torch.zeros(5, 1, 16)] * 3
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        packed_attention(*rows, packing, impl="kernel")
    compiled_kernels("packed_attention")  # not interpreted: the variable comes too late
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="before"):
        packed_attention(*rows, packing, impl="kernel")


def test_auto_on_a_cpu_never_reaches_the_kernel(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    packing = plan_packing(random_mask([50]), 7, 0)
    rows = [torch.randn(50, 1, 16, generator=torch.Generator().manual_seed(0)) for _ in range(3)]
    assert torch.equal(packed_attention(*rows, packing), packed_attention(*rows, packing, impl="reference"))


@pytest.mark.parametrize(
    ("step", "dtype", "head_dim", "window", "bias"),
    [
        ("forward", torch.bfloat16, 32, 7, 1),
        ("backward", torch.bfloat16, 32, 7, 1),
        ("table", torch.bfloat16, 32, 7, 1),
        ("forward", torch.float16, 32, 12, 0),
        ("backward", torch.float16, 32, 12, 2),
        ("table", torch.bfloat16, 64, 12, 1),
        ("forward", torch.float32, 32, 7, 1),
        ("backward", torch.float32, 32, 7, 1),
        ("backward", torch.float32, 64, 7, 0),
    ],
    ids=str,
)
def test_compiles_for_sm90_without_spills(step, dtype, head_dim, window, bias, monkeypatch, tmp_path):
    """With the block sizes that a call would use; tensor cores wherever the dtype has them."""
    kernel = compiled_kernels("packed_attention")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    chosen = kernel.options(step, dtype, head_dim, container_len=window**2, window_size=window)
    warps, stages = chosen.pop("num_warps"), chosen.pop("num_stages")
    function = kernel.KERNELS[step]
    types = {name: TRITON_TYPES[dtype] if name.endswith("_ptr") else "i32" for name in function.arg_names}
    types |= dict.fromkeys(("lse_ptr", "delta_ptr", "partial_ptr", "table_ptr"), "*fp32")
    types |= {"starts_ptr": "*i32", "tokens_ptr": "*i64", "segments_ptr": "*i64", "scale": "fp32"}
    build = build_for_sm90(function, chosen | {"SEGMENTED": True, "BIAS": bias}, types, warps=warps, stages=stages)
    assert build.spilled == 0
    assert build.shared < SHARED_LIMIT
    assert build.tensor_core == (dtype != torch.float32)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def results(case, dtype, device, impl, rounded_to=None):
    """Output and every gradient, on the CPU, of inputs rounded to `rounded_to` (the table to fp32)."""
    counts, window, scope, by = case
    packing = plan_packing(random_mask(counts).to(device), window, window // 2)
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(4, packing.num_tokens, 3, 32, generator=generator).to(rounded_to or dtype).to(device, dtype)
    leaves = [row.clone().requires_grad_() for row in rows[:3]]
    table = torch.randn((2 * window - 1) ** 2, 3, generator=generator).to(
        device, torch.promote_types(dtype, torch.float32)
    )
    bias = PositionBias(table.requires_grad_(), window, by) if by else None
    out = packed_attention(*leaves, packing, bias, scope, impl)
    out.backward(rows[3])
    return [value.detach().cpu() for value in (out, *(leaf.grad for leaf in leaves), *([table.grad] if by else []))]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [7, 8, 12])
@pytest.mark.parametrize(("scope", "by"), [("image", "spatial"), ("image_region", "slot"), ("image_window", None)])
def test_on_a_gpu_rounds_like_the_reference(dtype, window, scope, by):
    """O27 on the device: at most twice the reference's own rounding error."""
    case = ((0, 1, 48, 49, 50, 145), window, scope, by)
    exact = results(case, torch.float64, "cpu", "reference", rounded_to=dtype)
    reference = results(case, dtype, "cuda", "reference")
    kernel = results(case, dtype, "cuda", "kernel")
    for found, other, true in zip(kernel, reference, exact, strict=True):
        assert_rounds_like_on_average(found, other, true)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_two_runs_are_bit_equal():
    case = ((17, 130, 0, 50), 7, "image", "spatial")
    first, second = (results(case, torch.bfloat16, "cuda", "kernel") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_runs_in_a_cuda_graph():
    """No host synchronisation inside the operator: it can be captured and replayed."""
    packing = plan_packing(random_mask((17, 130)).cuda(), 7, 3)
    rows = [torch.randn(147, 3, 32, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    places = (packing.cu_seqlens, packing.token_index, None, None, *packing.grid[1:], 49, 1, False)
    expected, _ = attend_rows(*rows, *places)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = attend_rows(*rows, *places)
    graph.replay()
    assert torch.equal(captured, expected)


@pytest.mark.parametrize("by", ["spatial", None])
def test_the_gpu_comparison_itself(by):
    """The road of the GPU tests, walked on the CPU by the reference."""
    case = ((0, 1, 50), 7, "image", by)
    exact = results(case, torch.float64, "cpu", "reference", rounded_to=torch.float32)
    again = results(case, torch.float32, "cpu", "reference")
    for found, true in zip(again, exact, strict=True):
        assert found.dtype == torch.float32
        assert_same(found, true, tolerance=1e-5)
