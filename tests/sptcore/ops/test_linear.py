"""The linear layer of the CPU: torch's own to rounding, and torch's own itself where oneDNN does not apply."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from sptcore.ops import linear as module
from sptcore.ops.linear import linear
from tests.support.numerics import assert_rounds_like

NEEDS_ONEDNN = pytest.mark.skipif(module.onednn_obstacle() is not None, reason=str(module.onednn_obstacle()))
SHAPES = [(2, 700, 64, 96), (1, 300, 384, 96), (3, 50, 160, 640)]


def operands(batch, rows, inputs, outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(shape, generator=generator) for shape in ((batch, rows, inputs), (outputs, inputs), (outputs,))]
    return draw[0], draw[1] / inputs**0.5, draw[2]


def gradients(function, tensors, grad):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


@NEEDS_ONEDNN
@pytest.mark.parametrize("shape", SHAPES)
def test_result_and_gradients_round_like_torchs(shape, monkeypatch):
    calls = []
    product = module._product
    monkeypatch.setattr(module, "_product", lambda *operands: calls.append(1) or product(*operands))
    tensors = operands(*shape)
    grad = torch.randn(*shape[:2], shape[3], generator=torch.Generator().manual_seed(9))
    ours = gradients(linear, tensors, grad)
    theirs = gradients(F.linear, tensors, grad)
    exact = gradients(F.linear, [tensor.double() for tensor in tensors], grad.double())
    assert len(calls) == 3
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        assert_rounds_like(one, other, truth, factor=4.0)  # another order of summation, not a worse one
    with torch.no_grad():
        assert torch.equal(linear(*tensors), ours[0])


@NEEDS_ONEDNN
def test_any_strides_and_a_gradient_of_stride_zero():
    x, weight, bias = operands(1, 1400, 64, 96)
    wide = torch.randn(1400, 2, 64)
    wide[:, 1] = x[0]
    assert torch.equal(linear(wide[:, 1], weight, bias), linear(x[0], weight, bias))
    turned = weight.t().contiguous().t()
    assert_rounds_like(
        linear(x, turned, bias),
        F.linear(x, weight, bias),
        F.linear(*(t.double() for t in (x, weight, bias))),
        factor=4.0,
    )
    leaf = weight.clone().requires_grad_()
    linear(x, leaf, None).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, x[0].sum(0).expand_as(weight), rtol=1e-4, atol=1e-3)


@NEEDS_ONEDNN
def test_a_frozen_input_or_weight_gets_no_gradient():
    x, weight, bias = operands(*SHAPES[0])
    weight.requires_grad_()
    out = linear(x, weight, bias)
    out.sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    assert not linear(x, weight.detach(), bias).requires_grad


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("case", ["double", "small", "empty", "autocast", "off"])
def test_everything_else_is_torchs_own(case, monkeypatch):
    monkeypatch.setattr(module, "_product", lambda *_: pytest.fail("oneDNN was called"))
    x, weight, bias = operands(*SHAPES[0])
    if case == "double":
        x, weight, bias = x.double(), weight.double(), bias.double()
    if case in ("small", "empty"):
        x = x[:1, : 5 if case == "small" else 0]
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"),
        torch.backends.mkldnn.flags(enabled=case != "off"),
    ):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_a_traced_layer_is_torchs_own(monkeypatch):
    monkeypatch.setattr(module, "_product", lambda *_: pytest.fail("oneDNN was called"))
    monkeypatch.setattr(module, "is_traced", lambda: True)
    x, weight, bias = operands(*SHAPES[0])
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_its_operations_are_counted():
    x, weight, bias = (tensor.requires_grad_() for tensor in operands(*SHAPES[0]))
    with FlopCounterMode(display=False) as counter:
        out = linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 1400 * 64 * 96
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 1400 * 64 * 96
