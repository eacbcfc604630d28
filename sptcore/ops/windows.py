"""Window order of a token grid, with Swin's cyclic shift, as index arithmetic: no roll, no permuted copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """How the cells of one H x W grid lie in the windows of the shifted grid padded to multiples of the window.

    `cells` (W_n * M * M,) int64: row-major token index at each position, H*W where the position is a pad cell.
    `positions` (H*W,) int64: the position of each token, the inverse of `cells`.
    `regions` (W_n * M * M,) int64: Swin's region 0..8 of each position; equal regions may attend to each other.
    `num_inner` windows at the front of `windows` hold one region only; `windows` (W_n,) lists the others last.
    """

    height: int
    width: int
    window_size: int
    shift: tuple[int, int]
    cells: Tensor
    positions: Tensor
    regions: Tensor
    windows: Tensor
    num_inner: int

    @property
    def num_windows(self) -> int:
        return self.windows.numel()


def effective_shift(height: int, width: int, window_size: int, shift_size: int) -> tuple[int, int]:
    """The shift of each axis: zero where one window covers the padded axis (as torchvision, unlike Swin-det)."""
    return (
        0 if window_size >= height else shift_size,
        0 if window_size >= width else shift_size,
    )


def window_order(height: int, width: int, *, window_size: int, shift_size: int, device: torch.device) -> WindowOrder:
    """The (cached) WindowOrder of a grid of `height` x `width` tokens."""
    build: Callable[..., WindowOrder] = _build if torch.compiler.is_compiling() else _cached
    return build(height, width, window_size, shift_size, device)


def _build(height: int, width: int, window_size: int, shift_size: int, device: torch.device) -> WindowOrder:
    shift = effective_shift(height, width, window_size, shift_size)
    rows, row_regions = _axis(height, window_size, shift[0], device)
    columns, column_regions = _axis(width, window_size, shift[1], device)
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    index = torch.where(inside, rows[:, None] * width + columns[None, :], height * width)
    cells = _by_window(index, window_size)
    regions = _by_window(row_regions[:, None] * 3 + column_regions[None, :], window_size)
    positions = torch.empty(height * width + 1, dtype=torch.int64, device=device)
    positions[cells] = torch.arange(cells.numel(), device=device)
    windows, num_inner = _inner_first(rows.numel() // window_size, columns.numel() // window_size, shift, device)
    return WindowOrder(height, width, window_size, shift, cells, positions[:-1], regions, windows, num_inner)


@lru_cache(maxsize=64)
def _cached(height: int, width: int, window_size: int, shift_size: int, device: torch.device) -> WindowOrder:
    with torch.inference_mode(False):  # an inference tensor in the cache could never serve a backward pass
        return _build(height, width, window_size, shift_size, device)


def _axis(length: int, window_size: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Original coordinate and region (0, 1 or 2) of each coordinate of the padded, rolled axis."""
    padded = -(-length // window_size) * window_size
    rolled = torch.arange(padded, device=device)
    regions = torch.zeros_like(rolled)
    if shift:
        regions = (rolled >= padded - window_size).long() + (rolled >= padded - shift).long()
    return (rolled + shift) % padded, regions


def _by_window(grid: Tensor, window_size: int) -> Tensor:
    """(Hp, Wp) -> (Hp*Wp,): window after window, row-major inside each."""
    tiles = grid.unflatten(0, (-1, window_size)).unflatten(2, (-1, window_size))
    return tiles.permute(0, 2, 1, 3).reshape(-1)


def _inner_first(rows: int, columns: int, shift: tuple[int, int], device: torch.device) -> tuple[Tensor, int]:
    """Window numbers, those with a single region first, and how many these are."""
    last_row = torch.arange(rows, device=device) == (rows - 1 if shift[0] else -1)
    last_column = torch.arange(columns, device=device) == (columns - 1 if shift[1] else -1)
    border = (last_row[:, None] | last_column[None, :]).flatten()
    num_inner = (rows - bool(shift[0])) * (columns - bool(shift[1]))
    return torch.argsort(border.long(), stable=True), num_inner
