"""The kernels of packed attention under Triton's interpreter; `test_kernel.py` runs this file in a child process.

At most 50 programs a test. Kernel and reference are both measured against the reference in float64.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sptcore.ops.packed_attention import PositionBias, packed_attention, segment_ids
from sptcore.ops.packed_attention.operator import attend_rows
from sptcore.ops.packing import plan_packing
from tests.sptcore.ops.test_packing import random_mask
from tests.support.numerics import assert_rounds_like_on_average

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernel.py, which sets TRITON_INTERPRET=1"


@dataclass(frozen=True)
class Case:
    """Sizes of one call: tokens of each image, window M, container length L, heads, head dimension."""

    counts: tuple[int, ...]
    window: int = 7
    length: int = 49
    heads: int = 2
    dim: int = 32
    scope: str = "image"
    by: str | None = "spatial"
    mode: str = "stream"

    def packing(self):
        return plan_packing(random_mask(self.counts), self.window, self.window // 2, self.mode, self.length)

    def inputs(self, tokens: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Query, key, value, table and the gradient of the output, rounded to `dtype` (the table to fp32)."""
        generator = torch.Generator().manual_seed(7)
        rows = torch.randn(4, tokens, self.heads, self.dim, generator=generator).to(dtype)
        table = torch.randn((2 * self.window - 1) ** 2, self.heads, generator=generator)
        return dict(zip(("query", "key", "value", "grad"), rows, strict=True)) | {"table": table}


EDGES = (0, 1, 48, 49, 50)  # 0, 1, L - 1, L and L + 1 tokens an image
CASES = [
    Case(EDGES),
    Case(EDGES, mode="aligned", by="slot", scope="image_region"),
    Case(EDGES, by=None, scope="image_window", dim=16),
    Case((17, 0, 63), by="slot", mode="aligned", scope="image_window"),
    Case((130,), by=None),
    Case((63, 65, 0, 1), window=8, length=64, dim=64, heads=1, scope="image_region"),
    Case((145, 143), window=12, length=144, heads=1, by=None),
    Case((65, 1), window=12, length=144, heads=1),
    Case((144, 1), window=12, length=144, heads=1),
    Case((70, 40), window=12, length=144, heads=1, by="slot", mode="aligned"),
    Case((60, 0, 70), window=16, length=256, heads=1, dim=16, scope="image_region"),
    Case((17, 30), window=5, length=20, dim=24),
    Case((1, 2), length=1, dim=8, by=None),
    Case((3, 9), window=1, length=4, dim=16, by=None),
]


def evaluate(case: Case, packing, dtype: torch.dtype, impl: str, rounded: dict) -> dict[str, torch.Tensor]:
    """Output and gradients of one implementation in `dtype`, from inputs that were rounded beforehand."""
    table_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = {name: rounded[name].to(dtype, copy=True).requires_grad_() for name in ("query", "key", "value")}
    table = rounded["table"].to(table_dtype, copy=True).requires_grad_()
    bias = PositionBias(table, case.window, case.by) if case.by else None
    out = packed_attention(*leaves.values(), packing, bias, case.scope, impl)
    out.backward(rounded["grad"].to(dtype))
    results = {"output": out.detach()} | {name: leaf.grad for name, leaf in leaves.items()}
    return results | ({"table": table.grad} if case.by else {})


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in CASES), *((case, torch.float16) for case in CASES[:8])],
    ids=str,
)
def test_reference_output_and_every_gradient(case, dtype):
    """O27: at most twice the reference's own rounding error in that dtype."""
    packing = case.packing()
    rounded = case.inputs(packing.num_tokens, dtype)
    exact = evaluate(case, packing, torch.float64, "reference", rounded)
    reference = evaluate(case, packing, dtype, "reference", rounded)
    kernel = evaluate(case, packing, dtype, "kernel", rounded)
    for name, value in kernel.items():
        assert value.dtype == reference[name].dtype, name
        assert_rounds_like_on_average(value, reference[name], exact[name])


@pytest.mark.parametrize("heads", [3, 6, 12, 24, 4, 8, 16, 32])
def test_heads_reference_of_every_model_size(heads):
    """The head counts of the stages of T and S (3 to 24) and B (4 to 32), 32 channels each."""
    case = Case((9,), heads=heads, by=None)
    packing = case.packing()
    rounded = case.inputs(packing.num_tokens, torch.float32)
    exact = evaluate(case, packing, torch.float64, "reference", rounded)
    reference = evaluate(case, packing, torch.float32, "reference", rounded)
    for name, value in evaluate(case, packing, torch.float32, "kernel", rounded).items():
        assert_rounds_like_on_average(value, reference[name], exact[name])


def operands(case: Case, packing, dtype=torch.float32, extra: int = 0, fill: float = float("nan")) -> list:
    """Arguments of the operator; `extra` rows of `fill` lie behind the tokens in every buffer."""
    rounded = case.inputs(packing.num_tokens, dtype)
    rows = [
        torch.cat([rounded[name], torch.full((extra, case.heads, case.dim), fill, dtype=dtype)]).requires_grad_()
        for name in ("query", "key", "value")
    ]
    places = torch.cat([packing.token_index, torch.full((extra,), 2**40)])
    segments = None
    if case.scope != "image":
        segments = torch.cat([segment_ids(packing, case.scope), torch.zeros(extra, dtype=torch.int64)])
    table = rounded["table"].requires_grad_() if case.by else None
    sizes = (*packing.grid[1:], case.length, case.window, case.by == "slot")
    return [*rows, packing.cu_seqlens, places, segments, table, *sizes]


def outcome(arguments: list, grad: torch.Tensor) -> list[torch.Tensor]:
    out, lse = attend_rows(*arguments)
    leaves = [value for value in arguments if isinstance(value, torch.Tensor) and value.requires_grad]
    return [out.detach(), lse.detach(), *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("length", [49, 144])
def test_poison_behind_the_tokens_is_neither_read_nor_written(length):
    """Rows behind the last token hold NaN in every input; the outputs there keep the NaN they were filled with."""
    case = Case((17, 50), length=length, heads=1, scope="image_region")
    packing = case.packing()
    tokens = packing.num_tokens
    grad = case.inputs(tokens, torch.float32)["grad"]
    plain = outcome(operands(case, packing), grad)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        poisoned_grad = torch.cat([grad, torch.full((9, case.heads, case.dim), float("nan"))])
        poisoned = outcome(operands(case, packing, extra=9), poisoned_grad)
    finally:
        torch.use_deterministic_algorithms(False)
    for clean, found in zip(plain[:-1], poisoned[:-1], strict=True):
        assert torch.equal(clean, found[:tokens])
        assert found[tokens:].isnan().all()
    assert torch.equal(plain[-1], poisoned[-1])  # the table's gradient: the partials were all written


def test_poison_empty_containers_write_nothing():
    """Spare containers at the end, as buffers of fixed capacity have them, change no bit."""
    case = Case((17, 50))
    packing = case.packing()
    grad = case.inputs(packing.num_tokens, torch.float32)["grad"]
    plain = operands(case, packing)
    spare = list(plain)
    spare[3] = torch.cat([plain[3], plain[3][-1:].expand(3)])
    for clean, found in zip(outcome(plain, grad), outcome(spare, grad), strict=True):
        assert torch.equal(clean, found)


@pytest.mark.parametrize("by", ["spatial", None])
def test_degenerate_no_token_at_all(by):
    """P = 0: an empty result, and gradients that are zero, not missing."""
    case = Case((0, 0), by=by)
    packing = case.packing()
    results = evaluate(case, packing, torch.float32, "kernel", case.inputs(0, torch.float32))
    assert results["output"].shape == (0, 2, 32)
    if by:
        assert results["table"].shape == (169, 2)
        assert not results["table"].any()


def test_degenerate_one_token_attends_to_itself():
    case = Case((1,))
    packing = case.packing()
    rounded = case.inputs(1, torch.float32)
    results = evaluate(case, packing, torch.float32, "kernel", rounded)
    assert torch.equal(results["output"], rounded["value"])
    assert torch.equal(results["value"], rounded["grad"])
    assert not results["query"].any()
    assert not results["key"].any()


def test_layout_of_the_rows_does_not_matter():
    """Views of one (P, 3, h, d) projection, and rows without unit stride, give the bits of contiguous rows."""
    case = Case((17, 50))
    packing = case.packing()
    projection = torch.randn(packing.num_tokens, 3, 2, 32, generator=torch.Generator().manual_seed(0))
    transposed = projection.transpose(2, 3).contiguous().transpose(2, 3)
    expected = packed_attention(*(rows.contiguous() for rows in projection.unbind(1)), packing, impl="kernel")
    for rows in (projection, transposed):
        assert torch.equal(packed_attention(*rows.unbind(1), packing, impl="kernel"), expected)


@pytest.mark.parametrize("by", ["spatial", None])
def test_operator_registration(by):
    """Schema, shapes without data, autograd and tracing agree with what the operator does."""
    case = Case((17, 50), heads=1, by=by, scope="image_region")
    torch.library.opcheck(attend_rows, operands(case, case.packing()))


@pytest.mark.parametrize("by", ["spatial", None])
def test_operator_compiles_into_one_graph(by):
    case = Case((17, 50), heads=1, by=by)
    packing = case.packing()
    arguments = operands(case, packing)
    grad = case.inputs(packing.num_tokens, torch.float32)["grad"]

    def doubled(*arguments):
        return 2 * attend_rows(*arguments)[0]

    def results(function):
        out = function(*arguments)
        leaves = [value for value in arguments if isinstance(value, torch.Tensor) and value.requires_grad]
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(results(compiled), results(doubled), strict=True))


def test_operator_function_compiles_into_one_graph():
    """The choice of implementation is part of the graph: no break at `packed_attention(impl="kernel")`."""
    case = Case((17, 50), heads=1)
    packing = case.packing()
    rounded = case.inputs(packing.num_tokens, torch.float32)
    rows = [rounded[name] for name in ("query", "key", "value")]
    bias = PositionBias(rounded["table"], 7)

    def attention(query, key, value):
        return packed_attention(query, key, value, packing, bias, impl="kernel")

    assert torch.equal(torch.compile(attention, fullgraph=True, backend="aot_eager")(*rows), attention(*rows))


def test_operator_follows_autocast():
    """Under autocast the rows are cast as by scaled_dot_product_attention; the table and all gradients stay fp32."""
    case = Case((17, 50), heads=1)
    packing = case.packing()
    rounded = case.inputs(packing.num_tokens, torch.float16)
    leaves = [rounded[name].float().requires_grad_() for name in ("query", "key", "value", "table")]
    with torch.autocast("cpu", dtype=torch.float16):
        out = packed_attention(*leaves[:3], packing, PositionBias(leaves[3], 7), impl="kernel")
    assert out.dtype == torch.float16
    plain = packed_attention(
        *(rounded[name] for name in ("query", "key", "value")), packing, PositionBias(leaves[3], 7), impl="kernel"
    )
    assert torch.equal(out, plain)
    out.sum().backward()
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves)


@pytest.mark.parametrize("mode", ["stream", "aligned"])
def test_operator_counts_as_attention_over_whole_containers(mode):
    """O25: 2 products of B' h L^2 d multiply-adds forward, 5 backward, as scaled_dot_product_attention counts them."""
    case = Case((17, 50), mode=mode)
    packing = case.packing()
    arguments = operands(case, packing)
    product = packing.num_containers * case.heads * case.length**2 * case.dim
    with FlopCounterMode(display=False) as counter:
        out, _ = attend_rows(*arguments)
    assert counter.get_total_flops() == 2 * 2 * product
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * 5 * product


def test_refuses_tensors_that_do_not_fit():
    case = Case((17,), heads=1, scope="image_region")
    good = operands(case, case.packing())
    wrong = {
        1: good[1][:-1],
        2: good[2].half(),
        4: good[4][:-1],
        5: good[5].repeat(2)[::2],
        6: good[6][:-1],
    }
    for position, value in wrong.items():
        arguments = list(good)
        arguments[position] = value
        with pytest.raises(ValueError, match="must be"):
            attend_rows(*arguments)


def test_refuses_what_no_kernel_takes():
    case = Case((17,), heads=1)
    packing = case.packing()
    rows = [torch.zeros(17, 1, 32, dtype=torch.float64)] * 3
    with pytest.raises(ValueError, match="float64"):
        packed_attention(*rows, packing, impl="kernel")
    with pytest.raises(ValueError, match="up to 64 channels, not 65"):
        packed_attention(*[torch.zeros(17, 1, 65)] * 3, packing, impl="kernel")
