"""Window order of a token grid, with Swin's cyclic shift, as index arithmetic: no roll, no permuted copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sptcore.ops.backend import is_traced

OrderBook = dict[tuple[int, int, int, int, torch.device], "WindowOrder"]
_book: ContextVar[OrderBook | None] = ContextVar("sptcore.ops.windows.book", default=None)


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """How the cells of one H x W grid lie in the windows of the shifted grid padded to multiples of the window.

    `cells` (W_n * M * M,) int64: row-major token index at each position, H*W where the position is a pad cell.
    `positions` (H*W,) int64: the position of each token, the inverse of `cells`.
    `regions` (W_n * M * M,) int64: Swin's region 0..8 of each position; equal regions may attend to each other.
    """

    height: int
    width: int
    window_size: int
    shift: tuple[int, int]
    cells: Tensor
    positions: Tensor
    regions: Tensor

    @property
    def num_windows(self) -> int:
        """Windows of the padded grid."""
        return self.cells.numel() // self.window_size**2

    @property
    def has_pads(self) -> bool:
        """Whether the grid is not a multiple of the window."""
        return self.cells.numel() > self.height * self.width

    @property
    def is_shifted(self) -> bool:
        """Whether some windows hold several regions."""
        return any(self.shift)


@dataclass(frozen=True, eq=False)
class WindowPiece:
    """A few windows of a batch of grids, to be worked on together.

    `tokens` (n,) int64: their tokens in the flat (B*H*W) batch, pad cells left out. `slots` (windows * M * M,) int64:
    the token of each place as an index into `tokens`, n at pad cells; `places` (n,): the inverse. Both are None without
    pad cells. `closed` (windows, 1, M*M, M*M) bool: pairs of different regions, None where there are none.
    """

    tokens: Tensor
    slots: Tensor | None
    places: Tensor | None
    closed: Tensor | None


def effective_shift(height: int, width: int, window_size: int, shift_size: int) -> tuple[int, int]:
    """The shift of each axis: zero where one window covers the padded axis (as torchvision, unlike Swin-det)."""
    return (
        0 if window_size >= height else shift_size,
        0 if window_size >= width else shift_size,
    )


def window_order(height: int, width: int, *, window_size: int, shift_size: int, device: torch.device) -> WindowOrder:
    """The (cached) WindowOrder of a grid of `height` x `width` tokens.

    A CUDA graph that is being captured makes its own, unless `orders_kept_in` has it: the cache may let go of what the
    graph reads, and would hand others what only a replay computes.
    """
    if is_traced():
        return _build(height, width, window_size, shift_size, device)
    key, book = (height, width, window_size, shift_size, device), _book.get()
    if book is not None:
        if key not in book:
            book[key] = _build(*key)
        return book[key]
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _build(*key)
    return _cached(*key)


@contextmanager
def orders_kept_in(book: OrderBook) -> Iterator[None]:
    """Inside, every WindowOrder is read from `book` or laid into it, for as long as whoever owns the book keeps it."""
    token = _book.set(book)
    try:
        yield
    finally:
        _book.reset(token)


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
    return WindowOrder(height, width, window_size, shift, cells, positions[:-1], regions)


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


@lru_cache(maxsize=32)
def window_pieces(order: WindowOrder, *, batch: int, windows: int) -> tuple[WindowPiece, ...]:
    """All windows of `batch` grids in pieces of at most `windows`, those with several regions together at the end."""
    with torch.inference_mode(False):
        length, tokens = order.window_size**2, order.height * order.width
        offset = torch.arange(batch, device=order.cells.device)[:, None] * tokens
        cells = torch.where(order.cells < tokens, order.cells + offset, -1).view(-1, length)
        regions = order.regions.view(-1, length).repeat(batch, 1)
        mixed = (regions != regions[:, :1]).any(1)
        chosen = [part for kind in (~mixed, mixed) for part in kind.nonzero().flatten().split(windows) if len(part)]
        return tuple(_piece(cells[part], regions[part]) for part in chosen)


def _piece(cells: Tensor, regions: Tensor) -> WindowPiece:
    flat = cells.flatten()
    real = flat >= 0
    closed = (regions[:, None, :, None] != regions[:, None, None, :]) if (regions != regions[:, :1]).any() else None
    if real.all():
        return WindowPiece(flat, None, None, closed)
    slots = torch.where(real, real.cumsum(0) - 1, real.sum())
    return WindowPiece(flat[real], slots, real.nonzero().flatten(), closed)
