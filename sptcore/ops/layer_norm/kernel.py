"""Layer norm's mean and 1 / deviation of tokens, of all with the gate's logit, or of gathered ones; Triton kernels.

A program holds whole tokens, so the variance is taken around the mean, as torch's own layer takes it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)  # fixed when the kernels below are decorated


@triton.jit
def _statistics(values, channel_mask, eps, CHANNELS: tl.constexpr):
    """Mean, values without it, and 1 / deviation of rows (BLOCK_M, BLOCK_C); zero outside of the channels."""
    mean = tl.sum(values, 1) / CHANNELS
    centred = tl.where(channel_mask, values - mean[:, None], 0.0)
    return mean, centred, 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / CHANNELS + eps)


@triton.jit
def _gate_stats(
    grid_ptr, norm_weight_ptr, norm_bias_ptr, weight_ptr, bias_ptr, logits_ptr, mean_ptr, rstd_ptr, num_rows, eps,
    CHANNELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    """logits = LN(row) . w + b of every row, beside its mean and 1 / deviation."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = tl.arange(0, BLOCK_C)
    inside, known = rows < num_rows, channels < CHANNELS
    places = grid_ptr + rows[:, None] * CHANNELS + channels[None, :]
    values = tl.load(places, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)
    mean, centred, rstd = _statistics(values, known[None, :], eps, CHANNELS)
    scale = tl.load(norm_weight_ptr + channels, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias_ptr + channels, mask=known, other=0.0).to(tl.float32)
    normed = centred * rstd[:, None] * scale[None, :] + shift[None, :]
    if ROUNDED:
        normed = normed.to(grid_ptr.dtype.element_ty).to(tl.float32)
    weight = tl.load(weight_ptr + channels, mask=known, other=0.0).to(tl.float32)
    logits = tl.sum(normed * weight[None, :], 1) + tl.load(bias_ptr).to(tl.float32)
    tl.store(logits_ptr + rows, logits, mask=inside)
    tl.store(mean_ptr + rows, mean, mask=inside)
    tl.store(rstd_ptr + rows, rstd, mask=inside)


@triton.jit
def _row_stats(
    grid_ptr, index_ptr, count_ptr, mean_ptr, rstd_ptr, num_rows, eps,
    CHANNELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, GATHERED: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation at the places of the tokens index[i], i below the count, or of every token."""
    count = num_rows
    if GATHERED:
        count = tl.load(count_ptr)
    if tl.program_id(0) * BLOCK_M >= count:
        return
    token = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = token < count
    if GATHERED:
        token = tl.load(index_ptr + token, mask=inside, other=0)
    channels = tl.arange(0, BLOCK_C)
    known = channels < CHANNELS
    places = grid_ptr + token[:, None] * CHANNELS + channels[None, :]
    values = tl.load(places, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)
    mean, _, rstd = _statistics(values, known[None, :], eps, CHANNELS)
    tl.store(mean_ptr + token, mean, mask=inside)
    tl.store(rstd_ptr + token, rstd, mask=inside)


def options(channels: int) -> dict[str, int]:
    """Block sizes and warps: what compiles for sm_90 without spilling registers (tests hold it)."""
    return {"BLOCK_M": 8, "BLOCK_C": triton.next_power_of_2(channels), "num_warps": 4 if channels <= 512 else 8}


def gate_stats(
    grid: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor, bias: Tensor, *, rounded: bool
) -> tuple[Tensor, Tensor]:
    """(N, C) tokens -> logits (N,), and mean and 1 / deviation (2, N); fp32. `rounded`: see `gate_branch`."""
    logits = torch.empty(len(grid), dtype=torch.float32, device=grid.device)
    stats = torch.empty(2, len(grid), dtype=torch.float32, device=grid.device)
    arguments = (norm_weight.contiguous(), norm_bias.contiguous(), weight.contiguous(), bias, logits, *stats)
    _launch(_gate_stats, grid, (*arguments, len(grid), eps), ROUNDED=rounded)
    return logits, stats


def row_stats(grid: Tensor, token_index: Tensor | None, count: Tensor | None, eps: float) -> Tensor:
    """Mean and 1 / deviation (2, N) fp32 of `grid` (N, C); with an index those of its first `count` tokens only."""
    stats = torch.empty(2, len(grid), dtype=torch.float32, device=grid.device)
    given = (stats, stats) if token_index is None else (token_index, count)  # never read without an index
    _launch(_row_stats, grid, (*given, *stats, len(grid), eps), GATHERED=token_index is not None)
    return stats


def _launch(kernel: Any, grid: Tensor, arguments: tuple[Any, ...], **switches: bool) -> None:
    if grid.device.type != "cuda" and not INTERPRETED:
        raise ValueError("Triton kernels run on a CPU only when TRITON_INTERPRET=1 was set before their first use")
    rows, channels = grid.shape
    chosen = options(channels)
    if rows:
        with torch.cuda.device_of(grid):
            kernel[(triton.cdiv(rows, chosen["BLOCK_M"]),)](grid, *arguments, CHANNELS=channels, **switches, **chosen)
