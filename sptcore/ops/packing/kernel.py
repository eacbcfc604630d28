"""Packing as Triton kernels: selected tokens laid end to end in window order, without asking the device how many.

Two passes over the mask: count each block of the window order, then, from the running sums, write each block's tokens
where they belong. No atomics: the order is that of the window order, whatever the schedule.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)  # fixed when the kernels below are decorated
BLOCK = 1024


@triton.jit
def _selected(mask_ptr, cells_ptr, image, num_tokens, num_positions, BLOCK: tl.constexpr):
    """Position, cell and 0/1 selection (BLOCK,) of one block of one image's window order; pad cells are 0."""
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cell = tl.load(cells_ptr + position, mask=position < num_positions, other=num_tokens)
    selected = tl.load(mask_ptr + image * num_tokens + cell, mask=cell < num_tokens, other=0)
    return position, cell, (selected != 0).to(tl.int32)


@triton.jit
def _count(mask_ptr, cells_ptr, counts_ptr, num_tokens, num_positions, BLOCK: tl.constexpr):
    """counts (B, blocks): selected tokens of one block of one image."""
    image = tl.program_id(1).to(tl.int64)
    _, _, selected = _selected(mask_ptr, cells_ptr, image, num_tokens, num_positions, BLOCK)
    tl.store(counts_ptr + image * tl.num_programs(0) + tl.program_id(0), tl.sum(selected, 0))


@triton.jit
def _write(
    mask_ptr, cells_ptr, firsts_ptr, token_ptr, image_ptr, position_ptr, num_tokens, num_positions, BLOCK: tl.constexpr
):  # fmt: skip
    """Token index, image and position of the selected tokens of one block, from row `firsts` (B, blocks) on."""
    image = tl.program_id(1).to(tl.int64)
    position, cell, selected = _selected(mask_ptr, cells_ptr, image, num_tokens, num_positions, BLOCK)
    first = tl.load(firsts_ptr + image * tl.num_programs(0) + tl.program_id(0))
    row = first + tl.cumsum(selected, 0) - selected
    tl.store(token_ptr + row, image * num_tokens + cell, mask=selected != 0)
    tl.store(image_ptr + row, image + tl.zeros_like(cell), mask=selected != 0)
    tl.store(position_ptr + row, position.to(tl.int64), mask=selected != 0)


def compact(mask: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token index, image id and position (B*N,) int64 of the tokens selected by `mask` (B, N), and counts (B,) int64.

    `cells` (positions,) int64: the token at each place of the window order, N for a pad cell. The first sum(counts)
    entries are the selected tokens in packing order; the rest of the three buffers is zero.
    """
    batch, num_tokens = mask.shape
    sizes = (num_tokens, cells.numel(), BLOCK)
    blocks = triton.cdiv(cells.numel(), BLOCK)
    counts = torch.zeros(batch, blocks, dtype=torch.int64, device=mask.device)
    token_index, image_id, position = (
        torch.zeros(batch * num_tokens, dtype=torch.int64, device=mask.device) for _ in range(3)
    )
    if counts.numel():
        selected = mask.contiguous().view(torch.uint8)
        _launch(_count, (blocks, batch), selected, cells, counts, *sizes)
        firsts = (counts.flatten().cumsum(0) - counts.flatten()).view_as(counts)
        _launch(_write, (blocks, batch), selected, cells, firsts, token_index, image_id, position, *sizes)
    return token_index, image_id, position, counts.sum(1)


def _launch(kernel: Any, grid: tuple[int, int], mask: Tensor, *arguments: Tensor | int) -> None:
    if mask.device.type != "cuda" and not INTERPRETED:
        raise ValueError("Triton kernels run on a CPU only when TRITON_INTERPRET=1 was set before their first use")
    with torch.cuda.device_of(mask):
        kernel[grid](mask, *arguments)
