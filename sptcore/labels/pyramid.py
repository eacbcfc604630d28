"""Object mask -> one grid of selection labels per stride: the only rule for levels.

A cell of stride k is 1 iff an object pixel lies in its k x k footprint (the `touch` rule). Grids start at the upper
left corner and have ceil(H / k) x ceil(W / k) cells, so that level 2k is the 2 x 2 max-pool (ceil mode) of level k.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

DEFAULT_STRIDES = (8, 16, 32)
LARGEST_STRIDE = 1024


@dataclass(frozen=True, eq=False)
class SelectionPyramid:
    """The selection labels of one image: `grids[k]` bool (ceil(H / k), ceil(W / k)), `resolution` (W, H) in pixels."""

    image_id: int
    resolution: tuple[int, int]
    grids: dict[int, np.ndarray]


def checked_strides(strides: Iterable[int]) -> tuple[int, ...]:
    """`strides` sorted, without repeats. Raises ValueError for none, or one that is no power of two in 1 ... 1024."""
    result = tuple(sorted({int(stride) for stride in strides}))
    wrong = [s for s in result if not 1 <= s <= LARGEST_STRIDE or s & (s - 1)]
    if wrong or not result:
        raise ValueError(f"strides must be powers of two from 1 to {LARGEST_STRIDE}, got {wrong or 'none'}")
    return result


def grid_shape(height: int, width: int, stride: int) -> tuple[int, int]:
    """Rows and columns of a level: ceil(height / stride), ceil(width / stride)."""
    return -(-height // stride), -(-width // stride)


def levels(mask: np.ndarray, strides: Iterable[int] = DEFAULT_STRIDES) -> dict[int, np.ndarray]:
    """Label grids of an object mask (H, W), any pixel that is not 0 being an object pixel: bool grid per stride.

    Works on whole machine words: the zero-padded bytes are viewed as integers of up to 64 bits and OR-reduced to the
    finest level, every coarser one is a 2 x 2 OR of the one before. Raises ValueError for a mask without pixels.
    """
    wanted = checked_strides(strides)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a mask must have two dimensions and at least one pixel, got shape {mask.shape}")
    return pool_to(_finest(mask, wanted[0]), wanted[0], wanted)


def pool_to(grid: np.ndarray, stride: int, wanted: Sequence[int]) -> dict[int, np.ndarray]:
    """The levels `wanted` (ascending, none finer than `stride`) pooled from the bool grid of `stride`."""
    result = {}
    for target in wanted:
        while stride < target:
            grid, stride = pool2(grid), stride * 2
        result[target] = grid
    return result


def pool2(grid: np.ndarray) -> np.ndarray:
    """2 x 2 max-pool of a bool grid in ceil mode: (h, w) -> (ceil(h / 2), ceil(w / 2))."""
    height, width = grid.shape
    if height % 2 or width % 2:
        padded = np.zeros((height + height % 2, width + width % 2), dtype=bool)
        padded[:height, :width] = grid
        grid = padded
    rows = grid[0::2] | grid[1::2]
    return rows[:, 0::2] | rows[:, 1::2]


def _finest(mask: np.ndarray, stride: int) -> np.ndarray:
    if mask.dtype not in (np.uint8, np.bool_):
        mask = mask != 0
    height, width = mask.shape
    rows, columns = grid_shape(height, width, stride)
    if (height, width) != (rows * stride, columns * stride) or not mask.flags.c_contiguous:
        padded = np.zeros((rows * stride, columns * stride), dtype=np.uint8)
        padded[:height, :width] = mask
        mask = padded
    word = min(stride, 8)
    words = mask.view(f"u{word}")  # (rows * stride, columns * stride / word)
    merged = np.bitwise_or.reduce(words.reshape(rows, stride, -1), axis=1)  # one row of words per row of cells
    if stride > word:
        merged = np.bitwise_or.reduce(merged.reshape(rows, columns, -1), axis=2)
    return merged != 0


def box_levels(
    boxes_xyxy: Sequence[Sequence[float]] | np.ndarray,
    *,
    width: int,
    height: int,
    strides: Iterable[int] = DEFAULT_STRIDES,
) -> dict[int, np.ndarray]:
    """Label grids of half-open boxes (N, 4) in pixels without a raster.

    A box marks columns floor(x1 / k) ... ceil(x2 / k) - 1, rows alike, after clipping; one with no area left
    marks nothing. Equal to `levels` of the raster of the pixels the boxes touch (select loss, Eq. 10).
    Raises ValueError for coordinates that are not finite.
    """
    wanted = checked_strides(strides)
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("box coordinates must be finite numbers")
    boxes = np.clip(boxes, 0, (width, height, width, height))
    boxes = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]
    return {stride: _paint(boxes, grid_shape(height, width, stride), stride) for stride in wanted}


def _paint(boxes: np.ndarray, shape: tuple[int, int], stride: int) -> np.ndarray:
    left, top = np.floor(boxes[:, :2] / stride).astype(np.int64).T
    right, bottom = np.ceil(boxes[:, 2:] / stride).astype(np.int64).T
    edges = np.zeros((shape[0] + 1, shape[1] + 1), dtype=np.int32)  # corners of the boxes, summed up to coverage below
    np.add.at(edges, (top, left), 1)
    np.add.at(edges, (bottom, right), 1)
    np.add.at(edges, (top, right), -1)
    np.add.at(edges, (bottom, left), -1)
    return edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
