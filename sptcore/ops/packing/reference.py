"""Packing in plain torch: the specification, in any dtype on any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def compact(mask: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token index, image id and position (P,) int64 of the tokens selected by `mask` (B, N), and counts (B,).

    `cells` (positions,) int64: the token at each place of the window order, N for a pad cell.
    """
    ordered = F.pad(mask, (0, 1)).index_select(1, cells)  # (B, positions): pad cells are false
    image_id, position = ordered.nonzero(as_tuple=True)
    return image_id * mask.shape[1] + cells[position], image_id, position, ordered.sum(1)


def plan_slots(image_id: Tensor, counts: Tensor, length: int, *, contiguous: bool) -> tuple[Tensor, int]:
    """The slot of each token in the flat containers, and the number of containers B'.

    `image_id` (P,) of the tokens in packing order; `counts` (B,) tokens of each image, on the device or on the host.
    """
    rank = torch.arange(image_id.numel(), device=image_id.device)
    if contiguous:
        return rank, -(-image_id.numel() // length)
    containers = (counts + length - 1).div(length, rounding_mode="floor")
    pads_before = (containers * length - counts).cumsum(0) - (containers * length - counts)
    return rank + pads_before.to(image_id.device)[image_id], int(containers.sum())


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[index]` along the first axis, indices without repeats: the gradient is copied back, never accumulated."""
    if not (torch.is_grad_enabled() and rows.requires_grad):
        return rows.index_select(0, index)
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
