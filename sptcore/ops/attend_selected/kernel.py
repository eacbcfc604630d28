"""The attention branch for inference in four kernels that never ask the device how many tokens were selected.

Buffers have room for every token; the number of rows in use stays on the device, and a program that starts behind it
returns at once. The branch can therefore be captured in a CUDA graph and replayed for any selection.
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
def _weight_tile(weight_ptr, columns, inner, NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr):
    """Tile (BLOCK_K, BLOCK_N) of the transpose of a weight (NUM_OUT, NUM_IN)."""
    mask = (inner < NUM_IN)[:, None] & (columns < NUM_OUT)[None, :]
    return tl.load(weight_ptr + columns[None, :] * NUM_IN + inner[:, None], mask=mask, other=0.0)


@triton.jit
def _gather_linear(
    grid_ptr, gain_ptr, index_ptr, count_ptr, weight_ptr, bias_ptr, out_ptr,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, GAINED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[i] = (grid[index[i]] * gain[index[i]]) W^T + b for the rows i below the count."""
    count = tl.load(count_ptr)
    if tl.program_id(0) * BLOCK_M >= count:
        return
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < count
    token = tl.load(index_ptr + rows, mask=inside, other=0)
    if GAINED:
        gain = tl.load(gain_ptr + token, mask=inside, other=0.0).to(grid_ptr.dtype.element_ty)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, NUM_IN, BLOCK_K):
        inner = first + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (inner < NUM_IN)[None, :]
        a = tl.load(grid_ptr + token[:, None] * NUM_IN + inner[None, :], mask=mask, other=0.0)
        if GAINED:
            a = a * gain[:, None]
        w = _weight_tile(weight_ptr, columns, inner, NUM_OUT, NUM_IN)
        total += tl.dot(a.to(weight_ptr.dtype.element_ty), w, input_precision="ieee")
    total += tl.load(bias_ptr + columns, mask=columns < NUM_OUT, other=0.0).to(tl.float32)[None, :]
    mask = inside[:, None] & (columns < NUM_OUT)[None, :]
    tl.store(out_ptr + rows[:, None] * NUM_OUT + columns[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _linear_scatter(
    rows_ptr, index_ptr, count_ptr, weight_ptr, bias_ptr, grid_ptr,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """grid[index[i]] += rows[i] W^T + b for the rows i below the count; indices do not repeat."""
    count = tl.load(count_ptr)
    if tl.program_id(0) * BLOCK_M >= count:
        return
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < count
    token = tl.load(index_ptr + rows, mask=inside, other=0)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, NUM_IN, BLOCK_K):
        inner = first + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (inner < NUM_IN)[None, :]
        a = tl.load(rows_ptr + rows[:, None] * NUM_IN + inner[None, :], mask=mask, other=0.0)
        w = _weight_tile(weight_ptr, columns, inner, NUM_OUT, NUM_IN)
        total += tl.dot(a, w, input_precision="ieee")
    total += tl.load(bias_ptr + columns, mask=columns < NUM_OUT, other=0.0).to(tl.float32)[None, :]
    mask = inside[:, None] & (columns < NUM_OUT)[None, :]
    places = grid_ptr + token[:, None] * NUM_OUT + columns[None, :]
    branch = total.to(rows_ptr.dtype.element_ty).to(tl.float32)  # rounded as the projection's own result would be
    residual = tl.load(places, mask=mask, other=0.0).to(tl.float32)
    tl.store(places, (residual + branch).to(grid_ptr.dtype.element_ty), mask=mask)


def options(dtype: torch.dtype) -> dict[str, int]:
    """Block sizes, warps and stages: what compiles for sm_90 without spilling registers (tests hold it)."""
    if dtype == torch.float32:  # multiply-add instead of tensor cores
        return {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2}
    return {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}


def gather_linear(
    grid: Tensor, gain: Tensor | None, token_index: Tensor, count: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """(N, C) tokens, (N,) factors -> rows (capacity, C_out) in the dtype of `weight`; rows from `count` on are left."""
    num_out, num_in = weight.shape
    out = torch.empty(token_index.numel(), num_out, dtype=weight.dtype, device=grid.device)
    given = grid if gain is None else gain  # never read without a gain
    _launch(
        _gather_linear, out, (grid, given, token_index, count, weight, bias, out),
        NUM_IN=num_in, NUM_OUT=num_out, GAINED=gain is not None,
    )  # fmt: skip
    return out


def linear_scatter_(
    grid: Tensor, rows: Tensor, token_index: Tensor, count: Tensor, weight: Tensor, bias: Tensor
) -> None:
    """Add W rows + b to their places of `grid` (N, C), in place; `rows` (capacity, C_in) in the dtype of `weight`."""
    num_out, num_in = weight.shape
    _launch(_linear_scatter, rows, (rows, token_index, count, weight, bias, grid), NUM_IN=num_in, NUM_OUT=num_out)


def _launch(kernel: Any, rows: Tensor, tensors: tuple[Tensor, ...], **sizes: int) -> None:
    if rows.device.type != "cuda" and not INTERPRETED:
        raise ValueError("Triton kernels run on a CPU only when TRITON_INTERPRET=1 was set before their first use")
    chosen = options(rows.dtype)
    grid = (triton.cdiv(rows.shape[0], chosen["BLOCK_M"]), triton.cdiv(sizes["NUM_OUT"], chosen["BLOCK_N"]))
    if grid[0]:
        with torch.cuda.device_of(rows):
            kernel[grid](*tensors, **sizes, **chosen)
