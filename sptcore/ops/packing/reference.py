"""Packing in plain torch: the specification, in any dtype on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def plan_slots(image_id: Tensor, ordered: Tensor, length: int, *, contiguous: bool) -> tuple[Tensor, int]:
    """The slot of each token in the flat containers, and the number of containers B'.

    `image_id` (P,) of the tokens in packing order; `ordered` (B, padded grid) bool, the mask that it came from.
    """
    rank = torch.arange(image_id.numel(), device=image_id.device)
    if contiguous:
        return rank, -(-image_id.numel() // length)
    counts = ordered.sum(1)
    containers = (counts + length - 1).div(length, rounding_mode="floor")
    pads_before = (containers * length - counts).cumsum(0) - (containers * length - counts)
    return rank + pads_before[image_id], int(containers.sum())


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[index]` along the first axis, indices without repeats: the gradient is copied back, never accumulated."""
    return _GatherRows.apply(rows, index)  # type: ignore[return-value]


class _GatherRows(torch.autograd.Function):
    """index_select whose gradient uses that no row is read twice: deterministic, without atomics."""

    @staticmethod
    def forward(rows: Tensor, index: Tensor) -> Tensor:
        return rows.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, index, grads[0]), None
