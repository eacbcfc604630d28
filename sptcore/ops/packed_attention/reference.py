"""Packed attention in plain torch: scaled_dot_product_attention over containers, with a mask and a bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_mask(segments: Tensor) -> Tensor:
    """(B', L) segment ids -> (B', L, L) bool: may query i see key j. Pads (0) see each other, so no row is empty."""
    return segments[:, :, None] == segments[:, None, :]


def bias_by_space(table: Tensor, mask: Tensor | None, rows: Tensor, columns: Tensor, window_size: int) -> Tensor:
    """Biases (B', h, L, L) by grid offset, clipped to the table's +-(M-1); -inf where a `mask` is false."""
    reach, side = window_size - 1, 2 * window_size - 1
    rows, columns = rows.int() * side, columns.int()
    dy = (rows[:, :, None] - (rows - reach * side)[:, None, :]).clamp_(0, 2 * reach * side)
    dx = (columns[:, :, None] - (columns - reach)[:, None, :]).clamp_(0, 2 * reach)
    return _look_up(table, dy.add_(dx), mask)


def bias_by_slot(table: Tensor, mask: Tensor | None, window_size: int) -> Tensor:
    """Biases (B', h, L, L) as if the L = M^2 slots were the places of a window; -inf where `mask` is false.

    (1, h, L, L) without a mask.
    """
    index = relative_index(window_size, table.device).unsqueeze(0)
    return _look_up(table, index if mask is None else index.expand_as(mask), mask)


def relative_index(window_size: int, device: torch.device) -> Tensor:
    """(M*M, M*M) int64: the row of the bias table for each pair of places of a window, as in Swin."""
    place = torch.arange(window_size**2, device=device)
    row, column = place // window_size, place % window_size
    dy = row[:, None] - row[None, :] + window_size - 1
    dx = column[:, None] - column[None, :] + window_size - 1
    return dy * (2 * window_size - 1) + dx


def _look_up(table: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
    """Entries of the table, and of a last one of -inf where masked: one gather makes bias and mask, (B', h, L, L)."""
    entries = table.t().contiguous()  # read twice as fast
    if mask is not None:
        entries = torch.cat([entries, table.new_full((table.shape[1], 1), -math.inf)], 1)
        index = torch.where(mask, index, table.shape[0])
    flat = index.flatten().long().expand(table.shape[1], -1)
    return torch.gather(entries, 1, flat).view(table.shape[1], *index.shape).transpose(0, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, scores: Tensor | None) -> Tensor:
    """(B', L, h, d) each -> (B', L, h, d); `scores` is a bool mask (B', L, L), additive (B', h, L, L), or None."""
    if scores is not None:
        scores = scores.unsqueeze(1) if scores.dtype == torch.bool else scores.to(query.dtype)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if (
        query.shape[0] == 0 and scores is not None
    ):  # scaled_dot_product_attention would cut the (zero) gradient of the biases
        return (value + 0 * scores.sum()).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=scores).transpose(1, 2)
