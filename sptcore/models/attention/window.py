"""Shifted window attention of Swin: dense, torchvision's equal without its padded, rolled and permuted copies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sptcore.models.attention.base import Attended, Attention
from sptcore.ops.packed_attention.reference import relative_index
from sptcore.ops.selection import Selection
from sptcore.ops.windows import WindowOrder, window_order


class WindowAttention(Attention):
    """Every token attends inside its window; pad cells of the grid take part as zero tokens, as in torchvision."""

    def forward(self, normed: Tensor, selection: Selection | None = None) -> Attended:
        batch, height, width, dim = normed.shape
        order = window_order(
            height, width, window_size=self.window_size, shift_size=self.shift_size, device=normed.device
        )
        padded = F.pad(normed.flatten(1, 2), (0, 0, 0, int(order.cells.numel() > height * width)))
        qkv = self.qkv(padded).index_select(1, order.cells)  # one pad row answers for all pad cells
        qkv = qkv.unflatten(1, (order.num_windows, -1)).flatten(0, 1)
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self._scores(order, batch, query.dtype))
        attended = attended.transpose(1, 2).reshape(batch, -1, dim).index_select(1, order.positions)
        return Attended(attended.view(batch, height, width, dim))

    def _scores(self, order: WindowOrder, batch: int, dtype: torch.dtype) -> Tensor:
        """Position bias (1, h, L, L), or with the shift mask (B * windows, h, L, L)."""
        table = self.relative_position_bias_table
        assert table is not None
        bias = table[relative_index(self.window_size, table.device)].permute(2, 0, 1).to(dtype)
        if order.num_inner == order.num_windows:
            return bias.unsqueeze(0)
        regions = order.regions.view(order.num_windows, 1, -1)
        closed = regions.unsqueeze(-1) != regions.unsqueeze(-2)
        scores = bias.unsqueeze(0).masked_fill(closed, float("-inf"))
        return scores.repeat(batch, 1, 1, 1)
