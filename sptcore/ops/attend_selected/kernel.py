"""Linear layers on the selected tokens of a grid, as Triton kernels that never ask the device how many they are.

Buffers have room for every token; the number of rows in use stays on the device, and a program that starts behind it
returns at once. The branch can therefore be captured in a CUDA graph and replayed for any selection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)  # fixed when the kernels below are decorated


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens and the layer norm they are read through.

    `grid` (N, C); `stats` (2, N) fp32, mean and 1 / deviation of each token; `weight` and `bias` (C,) of the norm.
    """

    grid: Tensor
    stats: Tensor
    weight: Tensor
    bias: Tensor


@triton.jit
def _weight_tile(weight_ptr, columns, inner, NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr):
    """Tile (BLOCK_K, BLOCK_N) of the transpose of a weight (NUM_OUT, NUM_IN)."""
    mask = (inner < NUM_IN)[:, None] & (columns < NUM_OUT)[None, :]
    return tl.load(weight_ptr + columns[None, :] * NUM_IN + inner[:, None], mask=mask, other=0.0)


@triton.jit
def _normed_tile(
    grid_ptr, norm_weight_ptr, norm_bias_ptr, token, inner, wanted, mean, factor, gain, NUM_IN: tl.constexpr
):  # fmt: skip
    """Tile (BLOCK_M, BLOCK_K) in fp32 of gain x LN(tokens), `factor` being 1 / deviation x gain."""
    known = inner < NUM_IN
    values = tl.load(
        grid_ptr + token[:, None] * NUM_IN + inner[None, :], mask=wanted[:, None] & known[None, :], other=0.0
    )
    weight = tl.load(norm_weight_ptr + inner, mask=known, other=0.0).to(tl.float32)
    bias = tl.load(norm_bias_ptr + inner, mask=known, other=0.0).to(tl.float32)
    centred = (values.to(tl.float32) - mean[:, None]) * factor[:, None]
    return centred * weight[None, :] + gain[:, None] * bias[None, :]


@triton.jit
def _gather_linear(
    grid_ptr, mean_ptr, rstd_ptr, norm_weight_ptr, norm_bias_ptr, scale_ptr, index_ptr, count_ptr, weight_ptr, bias_ptr,
    out_ptr,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, SCALED: tl.constexpr, GELU: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[i] = (scale[index[i]] x LN(grid[index[i]])) W^T + b, through GELU or not, for the rows i below the count."""
    count = tl.load(count_ptr)
    if tl.program_id(0) * BLOCK_M >= count:
        return
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < count
    token = tl.load(index_ptr + rows, mask=inside, other=0)
    mean = tl.load(mean_ptr + token, mask=inside, other=0.0)
    factor = tl.load(rstd_ptr + token, mask=inside, other=0.0)
    gain = inside.to(tl.float32)
    if SCALED:
        gain = tl.load(scale_ptr + token, mask=inside, other=0.0).to(tl.float32)
    factor *= gain
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, NUM_IN, BLOCK_K):
        inner = first + tl.arange(0, BLOCK_K)
        a = _normed_tile(grid_ptr, norm_weight_ptr, norm_bias_ptr, token, inner, inside, mean, factor, gain, NUM_IN)
        w = _weight_tile(weight_ptr, columns, inner, NUM_OUT, NUM_IN)
        total += tl.dot(a.to(weight_ptr.dtype.element_ty), w, input_precision="ieee")
    total += tl.load(bias_ptr + columns, mask=columns < NUM_OUT, other=0.0).to(tl.float32)[None, :]
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    mask = inside[:, None] & (columns < NUM_OUT)[None, :]
    tl.store(out_ptr + rows[:, None] * NUM_OUT + columns[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _add_to(places, total, mask, bias_ptr, columns, NUM_OUT: tl.constexpr):
    """What is at `places` plus total + b, the sum rounded as a linear layer's own result would be."""
    total += tl.load(bias_ptr + columns, mask=columns < NUM_OUT, other=0.0).to(tl.float32)[None, :]
    residual = tl.load(places, mask=mask, other=0.0).to(tl.float32)
    return (residual + total.to(bias_ptr.dtype.element_ty).to(tl.float32)).to(places.dtype.element_ty)


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
    mask = inside[:, None] & (columns < NUM_OUT)[None, :]
    places = grid_ptr + token[:, None] * NUM_OUT + columns[None, :]
    tl.store(places, _add_to(places, total, mask, bias_ptr, columns, NUM_OUT), mask=mask)


@triton.jit
def _mixed_linear(
    grid_ptr, mean_ptr, rstd_ptr, norm_weight_ptr, norm_bias_ptr, scale_ptr, row_ptr, mixed_ptr, weight_ptr, bias_ptr,
    out_ptr, num_tokens,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[n] = grid[n] + z[n] W^T + b with z[n] = mixed[row[n]], or scale[n] x LN(grid[n]) where row[n] is -1."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = token < num_tokens
    row = tl.load(row_ptr + token, mask=inside, other=-1)
    packed, passing = inside & (row >= 0), inside & (row < 0)
    mean = tl.load(mean_ptr + token, mask=passing, other=0.0)
    gain = tl.load(scale_ptr + token, mask=passing, other=0.0).to(tl.float32)
    factor = tl.load(rstd_ptr + token, mask=passing, other=0.0) * gain
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, NUM_IN, BLOCK_K):
        inner = first + tl.arange(0, BLOCK_K)
        mask = packed[:, None] & (inner < NUM_IN)[None, :]
        a = tl.load(mixed_ptr + row[:, None] * NUM_IN + inner[None, :], mask=mask, other=0.0)
        passed = _normed_tile(
            grid_ptr, norm_weight_ptr, norm_bias_ptr, token, inner, passing, mean, factor, gain, NUM_IN
        )
        a = tl.where(packed[:, None], a, passed.to(a.dtype))
        w = _weight_tile(weight_ptr, columns, inner, NUM_OUT, NUM_IN)
        total += tl.dot(a, w, input_precision="ieee")
    mask = inside[:, None] & (columns < NUM_OUT)[None, :]
    offsets = token[:, None] * NUM_OUT + columns[None, :]
    tl.store(out_ptr + offsets, _add_to(grid_ptr + offsets, total, mask, bias_ptr, columns, NUM_OUT), mask=mask)


def options(dtype: torch.dtype) -> dict[str, int]:
    """Block sizes, warps and stages: what compiles for sm_90 without spilling registers (tests hold it)."""
    if dtype == torch.float32:  # multiply-add instead of tensor cores
        return {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2}
    return {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}


def gather_linear(
    tokens: Tokens,
    scale: Tensor | None,
    token_index: Tensor,
    count: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    gelu: bool = False,
) -> Tensor:
    """Gathered, normed, weighed by `scale` (N,) and projected: rows (N, C_out) in the dtype of `weight`.

    Rows from `count` (1,) int32 on are left as they are allocated. `gelu`: the result goes through GELU.
    """
    out = torch.empty(token_index.numel(), weight.shape[0], dtype=weight.dtype, device=weight.device)
    given = tokens.stats if scale is None else scale  # never read without a scale
    arguments = (*_read_through(tokens), given, token_index, count, *_laid_out(weight, bias), out)
    _launch(_gather_linear, len(out), weight, arguments, SCALED=scale is not None, GELU=gelu)
    return out


def linear_scatter_(
    grid: Tensor, rows: Tensor, token_index: Tensor, count: Tensor, weight: Tensor, bias: Tensor
) -> None:
    """Add W rows + b to their places of `grid` (N, C), in place; `rows` (N, C_in) in the dtype of `weight`."""
    arguments = (rows, token_index, count, *_laid_out(weight, bias), grid)
    _launch(_linear_scatter, len(rows), weight, arguments)


def mixed_linear(tokens: Tokens, scale: Tensor, row: Tensor, mixed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """All tokens (N, C) + W z + b: z the row of `mixed` (N, C) that `row` (N,) names, scale x LN(token) where it is -1.

    `mixed` and the bias in the dtype of `weight`. One read of the tokens, none of their normed copy.
    """
    out = torch.empty_like(tokens.grid)
    arguments = (*_read_through(tokens), scale, row, mixed, *_laid_out(weight, bias), out, len(out))
    _launch(_mixed_linear, len(out), weight, arguments)
    return out


def _read_through(tokens: Tokens) -> tuple[Tensor, ...]:
    return (tokens.grid, *tokens.stats, tokens.weight, tokens.bias)


def _laid_out(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight.contiguous(), bias.contiguous()


def _launch(kernel: Any, rows: int, weight: Tensor, arguments: tuple[Any, ...], **switches: bool) -> None:
    if weight.device.type != "cuda" and not INTERPRETED:
        raise ValueError("Triton kernels run on a CPU only when TRITON_INTERPRET=1 was set before their first use")
    chosen = options(weight.dtype)
    num_out, num_in = weight.shape
    grid = (triton.cdiv(rows, chosen["BLOCK_M"]), triton.cdiv(num_out, chosen["BLOCK_N"]))
    if rows:
        with torch.cuda.device_of(weight):
            kernel[grid](*arguments, NUM_IN=num_in, NUM_OUT=num_out, **switches, **chosen)
