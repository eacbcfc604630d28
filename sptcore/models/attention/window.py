"""Shifted window attention of Swin: dense, torchvision's equal without its padded, rolled and permuted copies."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sptcore.models.attention.base import Attended, Attention
from sptcore.models.streaming import PIECE_TOKENS, streams
from sptcore.ops.packed_attention.reference import relative_index
from sptcore.ops.selection import Selection
from sptcore.ops.windows import WindowOrder, window_order, window_pieces


class WindowAttention(Attention):
    """Every token attends inside its window; pad cells of the grid take part as zero tokens, as in torchvision."""

    def forward(self, normed: Tensor, selection: Selection | None = None) -> Attended:
        _, height, width, _ = normed.shape
        order = window_order(
            height, width, window_size=self.window_size, shift_size=self.shift_size, device=normed.device
        )
        whole = self._in_pieces if streams(self, normed) else self._at_once
        return Attended(whole(normed, order))

    def _at_once(self, normed: Tensor, order: WindowOrder) -> Tensor:
        """All windows together; q, k and v are made before the tokens are laid out, so pad cells cost one row."""
        batch = normed.shape[0]
        qkv = self.qkv(F.pad(normed.flatten(1, 2), (0, 0, 0, int(order.has_pads)))).index_select(1, order.cells)
        scores = self._bias(qkv.dtype)
        if order.is_shifted:
            regions = order.regions.view(order.num_windows, 1, -1)
            closed = regions.unsqueeze(-1) != regions.unsqueeze(-2)
            scores = scores.masked_fill(closed, -math.inf).repeat(batch, 1, 1, 1)
        attended = self._attend(qkv.view(-1, self.window_size**2, qkv.shape[-1]), scores)
        return attended.view(batch, -1, normed.shape[-1]).index_select(1, order.positions).view_as(normed)

    def _in_pieces(self, normed: Tensor, order: WindowOrder) -> Tensor:
        """A few windows at a time, so that what lies between two layers stays in the cache; the result is the same."""
        rows = normed.flatten(0, 2)
        attended, bias = torch.empty_like(rows), None
        for piece in window_pieces(order, batch=normed.shape[0], windows=max(1, PIECE_TOKENS // self.window_size**2)):
            tokens = rows.index_select(0, piece.tokens)
            qkv = self.qkv(tokens if piece.slots is None else F.pad(tokens, (0, 0, 0, 1)))
            qkv = qkv if piece.slots is None else qkv.index_select(0, piece.slots)
            bias = self._bias(qkv.dtype) if bias is None else bias
            scores = bias if piece.closed is None else bias.masked_fill(piece.closed, -math.inf)
            mixed = self._attend(qkv.view(-1, self.window_size**2, qkv.shape[-1]), scores).flatten(0, 1)
            mixed = mixed if piece.places is None else mixed.index_select(0, piece.places)
            attended.index_copy_(0, piece.tokens, mixed.to(attended.dtype))
        return attended.view_as(normed)

    def _attend(self, qkv: Tensor, scores: Tensor) -> Tensor:
        """(windows, M*M, 3C) -> (windows, M*M, C)."""
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        return mixed.transpose(1, 2).flatten(2)

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """Relative position biases (1, h, M*M, M*M)."""
        table = self.relative_position_bias_table
        assert table is not None
        index = relative_index(self.window_size, table.device)
        return table[index].permute(2, 0, 1).unsqueeze(0).to(dtype).contiguous()
