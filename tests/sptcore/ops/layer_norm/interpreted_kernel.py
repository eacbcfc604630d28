"""The kernels of the gate under Triton's interpreter; `test_kernel.py` runs this file in a child."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from sptcore.ops.layer_norm import Norm, gate_stats
from sptcore.ops.layer_norm.kernel import row_stats
from sptcore.ops.layer_norm.operator import read_gate
from sptcore.profiling.counted import count_macs
from tests.support.numerics import assert_differs, assert_rounds_like_on_average, assert_same

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernel.py, which sets TRITON_INTERPRET=1"

EPS = 1e-5


def inputs(channels: int, dtype: torch.dtype, shape=(2, 3, 5)) -> tuple[Tensor, Norm, Tensor, Tensor]:
    """Tokens far from a mean of zero, a norm that does something, weight and bias of a gate."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*size, generator=generator) for size in ((*shape, channels), (channels,), (channels,))
    )
    gate = torch.randn(1, channels, generator=generator) / channels**0.5
    return x.to(dtype), Norm((1 + weight / 5).to(dtype), bias.to(dtype), EPS), gate.to(dtype), gate[0, :1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [96, 33, 1])
@torch.no_grad()
def test_logits_and_statistics(channels, dtype):
    """The logits round as the reference's; mean and 1 / deviation are those of the tokens.

    Where a GPU rounds to bfloat16 the interpreter cuts off: twice the error.
    """
    x, norm, gate, bias = inputs(channels, dtype)
    logits, stats = gate_stats(x, norm, gate, bias, "kernel")
    reference, _ = gate_stats(x, norm, gate, bias, "reference")
    exact_norm = Norm(norm.weight.double(), norm.bias.double(), EPS)
    exact, _ = gate_stats(x.double(), exact_norm, gate.double(), bias.double(), "reference")
    assert logits.dtype == torch.float32
    assert_rounds_like_on_average(logits, reference, exact, factor=4.0 if dtype == torch.bfloat16 else 2.0)
    assert stats is not None
    assert_same(stats[0], x.double().mean(-1), tolerance=1e-6)
    assert_same(stats[1] * (x.double().var(-1, unbiased=False) + EPS).sqrt(), torch.ones(2, 3, 5), tolerance=1e-5)


@torch.no_grad()
def test_logits_of_normed_tokens_that_nobody_rounds():
    """As under autocast on a GPU, where the norm of half tokens is float32."""
    x, norm, gate, bias = inputs(33, torch.float16)
    logits, _ = read_gate(x, norm.weight, norm.bias, EPS, gate, bias, False)
    wide = Norm(norm.weight.float(), norm.bias.float(), EPS)
    expected, _ = gate_stats(x.float(), wide, gate.float(), bias, "reference")
    assert_same(logits, expected, tolerance=1e-6)
    rounded, _ = gate_stats(x, norm, gate, bias, "kernel")
    assert_differs(rounded, expected, by=1e-5)


@torch.no_grad()
def test_statistics_of_gathered_tokens_only():
    """Those of other tokens are not written, though another row's index lies behind the count."""
    x, norm, gate, bias = inputs(33, torch.float32)
    _, stats = gate_stats(x, norm, gate, bias, "kernel")
    assert stats is not None
    grid, every, index = x.flatten(0, 2), stats.flatten(1), torch.randperm(30)
    assert torch.equal(row_stats(grid, None, None, EPS), every)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        for count in (0, 1, 8, 9, 30):
            some = row_stats(grid, index, torch.tensor([count], dtype=torch.int32), EPS)
            assert torch.equal(some[:, index[:count]], every[:, index[:count]])
            assert some[:, index[count:]].isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)


@torch.no_grad()
def test_a_token_of_nan_spoils_itself_only():
    x, norm, gate, bias = inputs(33, torch.float32)
    expected, _ = gate_stats(x, norm, gate, bias, "kernel")
    x[0, 1, 2] = float("nan")
    found, _ = gate_stats(x, norm, gate, bias, "kernel")
    assert found.isnan().sum() == 1
    assert torch.equal(found.nan_to_num(), expected.where(~found.isnan(), 0.0))


@torch.no_grad()
def test_the_operator():
    """What the compiler is told, and what a counter is: the cost of the gate's linear layer."""
    x, norm, gate, bias = inputs(33, torch.float32)
    given = (x, norm.weight, norm.bias, EPS, gate, bias, True)
    torch.library.opcheck(read_gate, given, test_utils=("test_schema", "test_faketensor"))
    kernel, reference = (
        count_macs(lambda impl=impl: gate_stats(x, norm, gate, bias, impl)).macs for impl in ("kernel", "reference")
    )
    assert kernel == reference > 0
    assert gate_stats(x[:0], norm, gate, bias, "kernel")[0].shape == (0, 3, 5)


def test_what_is_refused():
    x, norm, gate, bias = inputs(33, torch.float32)
    with pytest.raises(ValueError, match="no gradient"):
        gate_stats(x, norm, gate, bias)
    with torch.no_grad(), pytest.raises(ValueError, match="float64"):
        gate_stats(x.double(), norm, gate, bias, "kernel")
