"""`sptcore::gate_stats`: the kernel as a PyTorch operator with shapes and operation count, without gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def gate_branch(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor, rounded: bool
) -> tuple[Tensor, Tensor]:
    """Logits (B, H, W) and mean and 1 / deviation (2, B, H, W), all fp32, of `x` (B, H, W, C); see `gate_stats`.

    `rounded`: the gate reads normed tokens in the dtype of `x`, else in fp32.
    """
    from sptcore.ops.layer_norm import kernel

    rows = x.contiguous().flatten(0, -2)
    logits, stats = kernel.gate_stats(rows, norm_weight, norm_bias, eps, weight, bias, rounded=rounded)
    return logits.view(x.shape[:-1]), stats.view(2, *x.shape[:-1])


read_gate = torch.library.custom_op("sptcore::gate_stats", gate_branch, mutates_args=())


@read_gate.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = x.shape[:-1]
    return x.new_empty(shape, dtype=torch.float32), x.new_empty((2, *shape), dtype=torch.float32)


@register_flop_formula(torch.ops.sptcore.gate_stats)
def _flops(x_shape: Any, *_: Any, **__: Any) -> int:
    """The product with the gate's weight, as its linear layer is counted."""
    return 2 * math.prod(x_shape)
