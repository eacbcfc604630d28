"""A linear layer on the CPU through oneDNN: about twice as fast as MKL where MKL holds back, as on AMD processors."""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

from sptcore.ops.backend import is_traced

SCHEMA = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)
SMALLEST = 1 << 21  # multiply-adds; below it the call itself costs more than it saves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, (..., in) -> (..., out), as `torch.nn.functional.linear`, forward and gradients.

    Takes oneDNN for large products of float32 on an x86 CPU, torch's own form (MKL, cuBLAS) for everything else. Both
    compute in full float32; they differ by rounding.
    """
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        out: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[assignment]
    else:
        out = _product(rows, weight, bias)
    return out.view(*x.shape[:-1], weight.shape[0])


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= SMALLEST
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
        and not torch.is_autocast_enabled("cpu")
        and not is_traced()
        and onednn_obstacle() is None
    )


@cache
def onednn_obstacle() -> str | None:
    """Why linear layers cannot go through oneDNN here, in words, or None."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"it is used on x86 processors, this is {platform.machine()}"
    if not torch.backends.mkldnn.is_available():
        return "this torch is built without oneDNN"
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or str(operator.default._schema) != SCHEMA:
        return "this torch offers oneDNN's linear layer in another form"
    return None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b of two matrices of any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if needs_x else None,
            _weight_gradient(grad, x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x of (N, out) and (N, in). oneDNN lays its first operand out anew: of many rows, better the narrow one."""
    (rows, out), width = grad.shape, x.shape[1]
    if rows * (out - width) > 4 * out * width:
        return _product(x.t(), grad.t()).t().contiguous()
    return _product(grad.t(), x.t())


def _flops(x_shape: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
    return 2 * x_shape[0] * x_shape[1] * weight_shape[0]


if onednn_obstacle() is None and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_flops)
